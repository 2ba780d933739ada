"""Procedural subjects: determinism, exact correspondence, exact alterations."""

from __future__ import annotations

from dataclasses import fields

import numpy as np
import pytest

from recipes.tiny.rendering import (
    SHAPES,
    Camera,
    Light,
    Primitive,
    ProceduralSubject,
    Solid,
    SurfaceChange,
    View,
    alter_subject,
    cast,
    correspondence,
    render,
    sample_cameras,
    sample_light,
)
from recipes.tiny.subjects import MOST_PARTS, make_subject, random_arrangement
from recipes.tiny.textures import random_palette, random_rotation, random_texture

SIZE = 96
SEEDS = range(12)
PICTURE = np.random.default_rng(5).integers(0, 256, (70, 90, 3)).astype(np.uint8)
WIDE = np.kron(PICTURE, np.ones((8, 8, 1), np.uint8))


def two_views(seed: int) -> tuple[ProceduralSubject, Camera, Camera, View, View]:
    rng = np.random.default_rng(seed)
    subject = make_subject(rng, [PICTURE, WIDE] if seed % 2 else [])
    first, second = sample_cameras(rng)
    return (
        subject,
        first,
        second,
        render(subject, first, rng, SIZE),
        render(subject, second, rng, SIZE, WIDE),
    )


def flat_texture(colour: float, seed: int = 0):
    return random_texture(np.random.default_rng(seed), np.full((6, 3), colour, np.float32), 0.5)


def ball(centre: tuple[float, float, float], radius: float, colour: float = 0.5) -> Primitive:
    solid = Solid("ellipsoid", np.array(centre), np.eye(3), np.full(3, radius))
    return Primitive(solid, flat_texture(colour))


def widths(camera: Camera, points: np.ndarray) -> np.ndarray:
    """Return the width of a pixel at the depth of points, in units of the object."""
    return camera.project(points, SIZE)[1] / (camera.focal * SIZE / 2)


@pytest.mark.parametrize("seed", SEEDS)
def test_views_follow_from_the_seed(seed):
    first, again, other = (two_views(n)[3:] for n in (seed, seed, seed + 2))
    for one, same in zip(first, again, strict=True):
        for field in fields(View):
            np.testing.assert_array_equal(getattr(one, field.name), getattr(same, field.name))
    assert (first[0].pixels != other[0].pixels).mean() > 0.4


def test_a_generator_gives_the_light_of_sample_light():
    subject, camera = two_views(1)[:2]
    light = sample_light(np.random.default_rng(3))
    drawn = render(subject, camera, np.random.default_rng(3), SIZE)
    np.testing.assert_array_equal(render(subject, camera, light, SIZE).pixels, drawn.pixels)
    other = render(subject, camera, np.random.default_rng(4), SIZE)
    np.testing.assert_array_equal(other.points, drawn.points)
    assert (other.pixels[other.mask] != drawn.pixels[other.mask]).mean() > 0.5


@pytest.mark.parametrize("seed", SEEDS)
def test_mask_points_and_part_agree(seed):
    subject, camera, _, view, _ = two_views(seed)
    assert (view.pixels.dtype, view.pixels.shape) == (np.uint8, (SIZE, SIZE, 3))
    assert (view.mask.dtype, view.altered.dtype) == (bool, bool)
    assert (view.points.dtype, view.part.dtype) == (np.float32, np.int16)
    assert 0.03 < view.mask.mean() < 0.95
    np.testing.assert_array_equal(view.mask, view.part >= 0)
    np.testing.assert_array_equal(view.mask, np.isfinite(view.points).all(axis=2))
    np.testing.assert_array_equal(view.mask, np.isfinite(view.points).any(axis=2))
    assert view.part.max() < len(subject.primitives)
    assert not view.altered.any()
    rows, columns = np.nonzero(view.mask)
    place, _ = camera.project(view.points[view.mask], SIZE)
    np.testing.assert_allclose(place, np.stack([columns, rows], axis=1), atol=2e-3)
    assert (np.linalg.norm(view.points[view.mask], axis=1) < 1.06).all()


@pytest.mark.parametrize("seed", SEEDS)
def test_corresponding_pixels_show_one_point(seed):
    subject, _, camera, first, second = two_views(seed)
    flow = correspondence(first, second, camera)
    assert (flow.dtype, flow.shape) == (np.float32, (SIZE, SIZE, 2))
    found = np.isfinite(flow).all(axis=2)
    np.testing.assert_array_equal(found, np.isfinite(flow).any(axis=2))
    assert not (found & ~first.mask).any()
    assert found.sum() > 0.4 * first.mask.sum()
    # New rays through the positions are the reference.
    solids = [primitive.solid for primitive in subject.primitives]
    hits, points = cast(solids, camera, flow[found], SIZE), first.points[found]
    apart = np.linalg.norm(hits.points - points, axis=1) / widths(camera, points)
    exact = (hits.part == first.part[found]) & (apart < 0.05)
    assert exact.mean() > 0.97
    # The remaining points lie at outlines, where rounding decides the side of a ray.
    close = (apart < 6) | (hits.part != first.part[found])
    assert close.mean() > 0.995
    # No visible point is missed.
    points = first.points[first.mask]
    place, _ = camera.project(points, SIZE)
    hits = cast(solids, camera, place, SIZE)
    same = np.linalg.norm(hits.points - points, axis=1) < 0.05 * widths(camera, points)
    facing = (hits.normals * -camera.rays(place, SIZE)).sum(axis=1)
    inside = ((place >= 0) & (place <= SIZE - 1)).all(axis=1)
    expected = same & inside & (facing > 0.35)
    missed = expected & np.isnan(flow[first.mask][:, 0])
    assert missed.sum() <= 0.02 * expected.sum()


def test_the_same_view_corresponds_to_itself():
    view, camera = two_views(4)[3], two_views(4)[1]
    flow = correspondence(view, view, camera)
    rows, columns = np.nonzero(view.mask)
    np.testing.assert_allclose(flow[rows, columns], np.stack([columns, rows], 1), atol=2e-3)


def test_hidden_points_have_no_correspondence():
    # Seen along x, the small ball hides the middle of the large one; seen along y it does not.
    subject = ProceduralSubject((ball((-0.4, 0, 0), 0.5), ball((0.6, 0, 0), 0.25)))
    aside, along = Camera(50, 0), Camera(0, 0)
    light = sample_light(np.random.default_rng(0))
    first, second = (render(subject, camera, light, SIZE) for camera in (aside, along))
    flow = correspondence(first, second, along)
    points = first.points
    hidden = (first.part == 0) & (np.hypot(points[..., 1], points[..., 2]) < 0.17)
    shown = (first.part == 0) & (np.hypot(points[..., 1], points[..., 2]) > 0.35)
    shown &= points[..., 0] > -0.2
    turned_away = (first.part == 0) & (points[..., 0] < -0.45)
    assert min(hidden.sum(), shown.sum(), turned_away.sum()) > 20
    assert np.isnan(flow[hidden]).all()
    assert np.isnan(flow[turned_away]).all()
    assert np.isfinite(flow[shown]).all()


def test_points_outside_the_other_view_have_no_correspondence():
    subject = ProceduralSubject((ball((0, 0, 0), 0.9), ball((0.5, 0, 0.5), 0.2)))
    light = sample_light(np.random.default_rng(0))
    camera = Camera(0, 0, shift=(1.0, 0.0))
    first = render(subject, Camera(0, 0), light, SIZE)
    flow = correspondence(first, render(subject, camera, light, SIZE), camera)
    found = np.isfinite(flow[..., 0])
    assert 0.3 < found.sum() / first.mask.sum() < 0.7
    assert np.nanmax(flow) <= SIZE - 1


@pytest.mark.parametrize("with_view", [True, False])
@pytest.mark.parametrize("seed", range(12))
def test_alterations_are_visible_exactly_where_marked(seed, with_view):
    subject, camera, *_ = two_views(seed)
    light = sample_light(np.random.default_rng(seed))
    before = render(subject, camera, light, SIZE, PICTURE)
    changed, altered = alter_subject(
        subject, np.random.default_rng(seed), [WIDE], before if with_view else None
    )
    after = render(changed, camera, light, SIZE, PICTURE)
    np.testing.assert_array_equal(before.pixels[~after.altered], after.pixels[~after.altered])
    np.testing.assert_array_equal(before.part, after.part)
    np.testing.assert_array_equal(before.points, after.points)
    assert altered
    assert altered <= set(range(len(subject.primitives)))
    inside = after.altered & after.mask
    step = np.abs(before.pixels.astype(int) - after.pixels).max(axis=2)
    if with_view:
        assert inside.sum() > 5
    if inside.any():
        assert (step[inside] > 0).mean() > 0.9
        assert step[inside].mean() > 12
    whole = all(np.isneginf(changed.primitives[i].change.level) for i in altered)
    named = np.isin(after.part, sorted(altered))
    if whole:
        np.testing.assert_array_equal(inside & named, named)
    elif with_view:
        assert 0.1 < (inside & named).sum() / named.sum() < 0.95
    # Beyond the named primitives only pixels on an outline, which show a share of them.
    near = np.pad(named, 1)
    near = near[:-2] | near[1:-1] | near[2:]
    near = near[:, :-2] | near[:, 1:-1] | near[:, 2:]
    assert not (after.altered & ~near).any()


def test_alterations_cover_all_kinds_and_copy_the_subject():
    halves, several = 0, 0
    for seed in range(40):
        subject = make_subject(np.random.default_rng(seed))
        changed, altered = alter_subject(subject, np.random.default_rng(seed))
        assert all(primitive.change is None for primitive in subject.primitives)
        assert {i for i, p in enumerate(changed.primitives) if p.change is not None} == altered
        halves += np.isfinite(changed.primitives[min(altered)].change.level)
        several += len(altered) > 1
    assert halves >= 5
    assert several >= 5


def test_a_half_is_cut_by_its_plane():
    primitive = ball((0, 0, 0), 0.8, colour=0.9)
    half = SurfaceChange(flat_texture(0.1), np.array([0.0, 0.0, 1.0]), 0.2)
    subject = ProceduralSubject((Primitive(primitive.solid, primitive.texture, half),))
    light = Light(np.array([0.0, 0, -1]), 0.5, np.full(3, 0.5), 0)
    view = render(subject, Camera(0, 0), light, SIZE)
    clear = view.mask & (np.abs(view.points[..., 2] - 0.2) > 0.05)
    np.testing.assert_array_equal(view.altered[clear], view.points[clear][:, 2] > 0.2)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("radii", [(1.0, 1.0), (0.0, 1.0), (0.9, 0.4)])
def test_rays_meet_the_surface_with_its_normal(shape, radii):
    rng = np.random.default_rng(1)
    centre, scale = np.array([0.1, -0.2, 0.1]), np.array([0.5, 0.3, 0.6])
    solid = Solid(shape, centre, random_rotation(rng), scale, radii)
    camera = Camera(30, 25, roll=10)
    grid = np.stack(np.meshgrid(np.arange(SIZE), np.arange(SIZE)), axis=-1).reshape(-1, 2)
    hits = cast([solid], camera, grid, SIZE)
    met = hits.part == 0
    local = (hits.points[met] - solid.centre) @ solid.axes / solid.scale
    if shape == "ellipsoid":
        level = (local**2).sum(axis=1)
    elif shape == "soft box":
        level = (local**4).sum(axis=1)
    elif shape == "box":
        level = np.abs(local).max(axis=1)
    else:
        radius = radii[0] + (radii[1] - radii[0]) * (local[:, 2] + 1) / 2
        side = np.hypot(local[:, 0], local[:, 1]) - radius
        level = 1 + np.maximum(side, np.abs(local[:, 2]) - 1)
    assert met.sum() > 300
    np.testing.assert_allclose(level, 1, atol=1e-4)
    normals = hits.normals[met]
    np.testing.assert_allclose(np.linalg.norm(normals, axis=1), 1, atol=1e-5)
    assert ((normals * camera.rays(grid[met], SIZE)).sum(axis=1) < 1e-3).all()
    # Steps to the next pixel run along the surface: at right angles to the normal.
    image = hits.points.reshape(SIZE, SIZE, 3)
    step = image[:, 1:] - image[:, :-1]
    turn = np.abs((step * hits.normals.reshape(SIZE, SIZE, 3)[:, :-1]).sum(axis=2))
    slant = (turn / np.linalg.norm(step, axis=2))[np.isfinite(turn)]
    assert np.median(slant) < 0.05


@pytest.mark.parametrize("shape", SHAPES)
def test_surface_points_lie_in_their_directions(shape):
    rng = np.random.default_rng(2)
    solid = Solid(shape, rng.normal(size=3), random_rotation(rng), np.array([0.5, 0.2, 0.7]))
    directions = rng.normal(size=(200, 3))
    local = (solid.surface(directions) - solid.centre) @ solid.axes / solid.scale
    size = np.linalg.norm(local, axis=1)
    assert ((size > 1 - 1e-4) & (size < np.sqrt(3) + 1e-4)).all()
    directions /= np.linalg.norm(directions, axis=1, keepdims=True)
    np.testing.assert_allclose(local / size[:, None], directions, atol=1e-5)


def test_an_unknown_shape_is_refused():
    with pytest.raises(ValueError, match=r"ellipsoid.*got 'torus'"):
        Solid("torus", np.zeros(3), np.eye(3), np.ones(3))


@pytest.mark.parametrize("seed", range(20))
def test_arrangements_are_connected_and_inside_the_unit_ball(seed):
    solids, groups = random_arrangement(np.random.default_rng(seed))
    assert 2 <= len(solids) <= MOST_PARTS
    assert len(groups) == len(solids)
    points = np.random.default_rng(0).normal(size=(3000, 3))
    shells = [solid.surface(points) for solid in solids]
    assert max(np.linalg.norm(shell, axis=1).max() for shell in shells) < 1.06
    linked, waiting = {0}, [0]
    while waiting:
        one = waiting.pop()
        for other in set(range(len(solids))) - linked:
            # Some surface point of either lies inside the box of the other, up to a hair.
            if any(
                (np.abs((shells[a] - solids[b].centre) @ solids[b].axes) / solids[b].scale
                 < 1.02).all(axis=1).any()
                for a, b in ((one, other), (other, one))
            ):  # fmt: skip
                linked.add(other)
                waiting.append(other)
    assert linked == set(range(len(solids)))


def test_textures_are_in_range_and_independent_of_other_points():
    points = np.random.default_rng(0).uniform(-1, 1, (500, 3)).astype(np.float32)
    normals = points / np.linalg.norm(points, axis=1, keepdims=True)
    patterns = set()
    for seed in range(120):
        rng = np.random.default_rng(seed)
        texture = random_texture(rng, random_palette(rng), 0.4, [PICTURE, WIDE])
        patterns |= {layer.pattern for layer in texture.layers}
        colours = texture.colours(points, normals)
        assert (colours.dtype, colours.shape) == (np.float32, (500, 3))
        assert (colours >= 0).all()
        assert (colours <= 1).all()
        np.testing.assert_allclose(colours[100:200], texture.colours(points[100:200],
                                   normals[100:200]), atol=1e-4)  # fmt: skip
    assert len(patterns) == 13


def test_cameras_respect_their_ranges():
    for seed in range(50):
        first, second = sample_cameras(
            np.random.default_rng(seed), azimuth=10, elevation=5, roll=3, zoom=(0.5, 0.6), shift=0.1
        )
        assert abs(first.azimuth - second.azimuth) <= 10
        assert abs(first.elevation - second.elevation) <= 5
        for camera in (first, second):
            assert abs(camera.roll) <= 3
            assert 0.5 <= camera.zoom <= 0.6
            assert max(map(abs, camera.shift)) <= 0.1
            np.testing.assert_allclose(camera.axes @ camera.axes.T, np.eye(3), atol=1e-12)


def test_azimuth_turns_and_up_is_up():
    place, _ = Camera(0, 0).project(np.array([[0, 0, 0.5], [0, 0.5, 0], [0, 0, 0]]), SIZE)
    middle = (SIZE - 1) / 2
    assert place[0][1] < middle - 10
    assert place[1][0] > middle + 10
    np.testing.assert_allclose(place[2], middle)
