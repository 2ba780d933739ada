# %% [markdown]
# # From two photographs to a score, a heat map and a threshold
#
# Run it as a script (`python examples/quickstart.py --out out`) or cell by cell in an editor that
# knows `# %%`. It needs matplotlib (`pip install '.[lab]'`).

# %%
from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure
from PIL import Image

import vsm_fast
from vsm_fast.results.overlay import blend

HERE = Path(__file__).parent if "__file__" in globals() else Path("examples")
OUT = Path("out")
if "__file__" in globals():  # in a notebook there is no command line
    parser = argparse.ArgumentParser(description="Two photographs to a score and a heat map.")
    parser.add_argument("--out", type=Path, default=OUT, help="folder for the figure")
    OUT = parser.parse_args().out

# %% [markdown]
# ## Two photographs
# The same toy twice; in the second picture a part of it was repainted. Masks say where the toy is.

# %%
reference = HERE / "refs" / "robot_toy" / "reference.jpg"
generation = HERE / "gens" / "robot_toy" / "repainted.jpg"
masks = [path.with_name(f"{path.stem}_mask.png") for path in (reference, generation)]

# %% [markdown]
# ## The score
# The share of the matched points that also look the same: 1 is consistent.

# %%
scores = vsm_fast.score_batch(
    refs=[reference], gens=[generation], ref_masks=[masks[0]], gen_masks=[masks[1]], heatmaps=True
)
result = scores[0]
print(f"VSM {result.score:.3f}: {result.n_matched} of {result.n_source} points matched")

# %% [markdown]
# ## The heat map
# Where the toy looks different: 1 = inconsistent, NaN off the subject.

# %%
heat = scores.heatmap(0)
y, x = np.unravel_index(np.nanargmax(heat), heat.shape)
print(f"most inconsistent at x = {x}, y = {y}: {heat[y, x]:.2f}")

# %% [markdown]
# ## Other thresholds
# `at` counts again and computes nothing again. A photograph that nobody repainted is the control.

# %%
control = HERE / "gens" / "robot_toy" / "other_photo.jpg"
both = vsm_fast.score_batch(
    refs=[reference],
    gens=[generation, control],
    ref_masks=[masks[0]],
    gen_masks=[masks[1], control.with_name("other_photo_mask.png")],
)
thresholds = np.linspace(0, 1, 101)
repainted, untouched = np.array([both.at(threshold) for threshold in thresholds]).T
best = thresholds[np.argmax(untouched - repainted)]
print(f"furthest apart at a threshold of {best:.2f}; the model's own is {both.visual_threshold}")

# %% [markdown]
# ## A figure of all that

# %%
figure = Figure(figsize=(10, 2.8), layout="constrained")
axes = figure.subplots(1, 4, width_ratios=[1, 1, 1, 1.3])
pictures = [Image.open(reference), Image.open(generation), blend(Image.open(generation), heat)]
titles = ["reference", f"generation, VSM {result.score:.2f}", "inconsistency"]
for axis, picture, title in zip(axes, pictures, titles, strict=False):
    axis.imshow(picture)
    axis.set_title(title, fontsize=9)
    axis.axis("off")
axes[3].plot(thresholds, untouched, color="#0072B2", label="other photograph")
axes[3].plot(thresholds, repainted, color="#D55E00", label="repainted")
axes[3].axvline(both.visual_threshold, color="#888888", linewidth=0.8, linestyle="--")
axes[3].set_xlabel("visual threshold", fontsize=9)
axes[3].set_ylabel("VSM", fontsize=9)
axes[3].legend(frameon=False, fontsize=8, loc="lower left")
axes[3].spines[["top", "right"]].set_visible(False)
OUT.mkdir(parents=True, exist_ok=True)
figure.savefig(OUT / "quickstart.png", dpi=120)
print(f"figure: {OUT / 'quickstart.png'}")
