"""The local server over real connections: uploads, limits, hostile clients, the page."""

from __future__ import annotations

import base64
import http.client
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
import zlib
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path

import clocks
import numpy as np
import pytest
from browser import chromium, needs_chromium
from job_inputs import write_model, write_pairs

from vsm_fast import VSMScorer, score_batch
from vsm_fast.cli.main import main
from vsm_fast.images.automatic_masks import AutoMask
from vsm_fast.report.server import (
    MAX_REQUESTS,
    Connection,
    ServerStopped,
    _with_names,
    allowed_host,
    make_app,
    make_server,
    score_images,
)
from vsm_fast.report.uploads import SIDES, Limits, UploadedImage, shown_name

EXAMPLES = Path(__file__).parents[2] / "examples"
REFERENCE = EXAMPLES / "refs/robot_toy/reference.jpg"
REPAINTED = EXAMPLES / "gens/robot_toy/repainted.jpg"
SMALL = Limits(file_bytes=1000, all_bytes=3000, files=12, references=2, seconds=1)
BOUNDARY = "form-boundary"
jumping_clock = clocks.jumping_clock


def mask_of(path):
    return path.with_name(f"{path.stem}_mask.png")


def form(*files):
    """Return the body of a form of (field, file name, content)."""
    parts = [
        f'--{BOUNDARY}\r\nContent-Disposition: form-data; name="{field}"; filename="{name}"\r\n'
        "Content-Type: image/png\r\n\r\n".encode()
        + content
        + b"\r\n"
        for field, name, content in files
    ]
    return b"".join([*parts, f"--{BOUNDARY}--\r\n".encode()])


def ask(port, method="POST", path="/score", body=None, **headers):
    """Return (status, headers, body) of one request."""
    sent = {"Content-Type": f"multipart/form-data; boundary={BOUNDARY}"} if body else {}
    sent |= {name.replace("_", "-"): value for name, value in headers.items()}
    with closing(http.client.HTTPConnection("127.0.0.1", port, timeout=60)) as connection:
        connection.request(method, path, body, sent)
        answer = connection.getresponse()
        return answer.status, dict(answer.getheaders()), answer.read()


@contextmanager
def served(score, limits=SMALL, page="<!doctype html><title>page</title>"):
    """Run a server in a thread and yield its port."""
    server = make_server(make_app(page, score, "127.0.0.1", limits))
    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
        thread.start()
        try:
            yield listener.getsockname()[1]
        finally:
            server.should_exit = True
            thread.join(30)


@pytest.fixture(scope="module")
def port():
    """Return the port of a server that answers with its input."""

    def score(images):
        return {
            side: [[image.name, image.path.name,
                    image.mask.name if isinstance(image.mask, Path) else repr(image.mask),
                    image.path.stat().st_size] for image in found]
            for side, found in images.items()
        }  # fmt: skip

    with served(score) as number:
        yield number


def test_the_page_and_its_headers(port):
    status, headers, body = ask(port, "GET", "/")
    assert (status, headers["content-type"]) == (200, "text/html; charset=utf-8")
    assert b"<title>page</title>" in body
    for name, value in (("x-content-type-options", "nosniff"), ("x-frame-options", "DENY"),
                        ("cache-control", "no-store")):  # fmt: skip
        assert headers[name] == value


def test_files_are_stored_under_numbers_with_their_masks(port):
    long, spelled = "n" * 300, "caf\u00e9"
    generations = (
        "C:\\\\gens\\\\cat.jpg", "cat_mask.png", "DOG.JPG", "dog_Mask.TIFF", "dog2.png",
        f"{long}.png", f"{long}_mask.png", f"{spelled}.png", "cafe\u0301_mask.png",
    )  # fmt: skip
    status, _, body = ask(port, body=form(
        ("reference", "../../etc/passwd", b"12"), ("reference", "cat.jpg", b""),
        *(("generation", name, b"0" * size) for size, name in enumerate(generations))))  # fmt: skip
    assert status == 200, body
    assert json.loads(body) == {
        "reference": [["passwd", "000", "None", 2], ["cat.jpg", "001", "None", 0]],
        "generation": [
            ["cat.jpg", "000", "001", 0], ["DOG.JPG", "002", "003", 2],
            ["dog2.png", "004", "None", 4], [f"{long}.png"[-120:], "005", "006", 5],
            [f"{spelled}.png", "007", "008", 7],
        ],
    }  # fmt: skip


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (("g.png", "g_mask.png", "g_mask.jpg"), "g.png has more than one mask: g_mask.png, g_mask"),
        (("g.png", "g.jpg", "g_mask.png"), "g_mask.png would be the mask of both g.png and g.jpg"),
        (("g.png", "g.png", "g_mask.png"), "g_mask.png would be the mask of both g.png and g.png"),
        (
            ("g.png", "lone_mask.png"),
            "lone_mask.png is named like a mask, but its image is missing",
        ),
    ],
)
def test_ambiguous_masks_are_refused(port, names, message):
    files = [("generation", name, b"1") for name in names]
    status, _, body = ask(port, body=form(("reference", "r.png", b"1"), *files))
    assert (status, body.decode()[: len(message)]) == (400, message)


def with_masks(choice):
    """Return a form with a value of the field masks."""
    field = f'--{BOUNDARY}\r\nContent-Disposition: form-data; name="masks"\r\n\r\n{choice}\r\n'
    return field.encode() + form(("reference", "a", b"1"), ("generation", "b", b"2"))


def test_the_form_chooses_how_to_find_masks(port):
    for choice, found in (("whole", "None"), ("auto", repr(AutoMask(method="grabcut")))):
        answer = json.loads(ask(port, body=with_masks(choice))[2])
        assert [image[2] for side in SIDES for image in answer[side]] == [found, found]
    assert ask(port, body=with_masks("other"))[::2] == (400, b"masks must be auto or whole.")
    assert ask(port, body=with_masks("auto").replace(b'="reference"', b'="masks"'))[0] == 400


def test_found_masks_equal_the_command_line(tmp_path):
    images = {side: [UploadedImage(path.name, path, AutoMask(method="grabcut"))]
              for side, path in zip(SIDES, (REFERENCE, REPAINTED), strict=True)}  # fmt: skip
    scorer = VSMScorer.from_pretrained("tiny")
    found = score_images(scorer, threading.Event(), images)
    masks = AutoMask(method="grabcut")
    expected = scorer.score([REFERENCE], [REPAINTED], ref_masks=masks, gen_masks=masks)
    packed = zlib.decompress(base64.b64decode(found["stream"]))
    blocks = {name: (kind, size) for name, kind, size in found["header"]["blocks"]}
    texts = json.loads(packed[-blocks["texts"][1] :]) if blocks else {}
    assert texts["gen_mask_origin"] == texts["ref_mask_origin"] == ["grabcut"]
    assert np.float32(expected.score[0]).tobytes() in packed


def test_messages_use_uploaded_names():
    def score(images):
        return {"said": [_with_names(f"{image.path} is broken", images)
                         for image in images["generation"]]}  # fmt: skip

    names = [f"{number}.png" for number in range(12)]
    files = [("generation", name, b"1") for name in names]
    with served(score, Limits()) as number:
        answer = json.loads(ask(number, body=form(("reference", "r.png", b"1"), *files))[2])
    assert answer["said"] == [f"{name} is broken" for name in names]


def test_shown_names_are_short_and_printable():
    assert shown_name("a/b\\c\x1b[2J.png") == "c?[2J.png"
    assert len(shown_name("x" * 500)) == 120
    assert shown_name(None) == shown_name("///") == "unnamed"


@pytest.mark.parametrize("host", ["evil.example", "127.0.0.1.evil.example:80", "", "10.0.0.1", "["])
def test_another_host_is_refused(port, host):
    for method, path in (("GET", "/"), ("POST", "/score")):
        status, _, body = ask(port, method, path, Host=host)
        assert status in (400, 421)
        assert b"title" not in body


def test_allowed_hosts(port):
    for host in ("localhost:9", "127.0.0.1", "[::1]:80", "LOCALHOST"):
        assert ask(port, "GET", "/", Host=host)[0] == 200
    for host in ("10.0.0.7:8000", socket.gethostname()):
        assert allowed_host(host, "0.0.0.0")
    assert allowed_host("gpu.lan", "gpu.lan")
    assert not allowed_host("evil.example", "0.0.0.0")


def test_other_sites_are_refused(port):
    body = form(("reference", "a", b"1"), ("generation", "b", b"2"))
    assert ask(port, body=body, Origin="https://evil.example")[0] == 403
    for origin in ("null", "http://[", f"https://127.0.0.1:{port}", f"http://localhost:{port}"):
        assert ask(port, body=body, Origin=origin)[0] == 403
    assert ask(port, body=body, Origin=f"http://127.0.0.1:{port}")[0] == 200


@pytest.mark.parametrize(
    ("files", "status", "message"),
    [
        ([("reference", "big.png", b"x" * 1001), ("generation", "b", b"2")], 413, "big.png"),
        ([("reference", "a", b"x"), ("generation", "b", b"2" * 80_000)], 413, "A request may"),
        ([("reference", "a", b"x")] * 3 + [("generation", "b", b"2")], 413, "At most 2 references"),
        ([("reference", "a", b"x")] + [("generation", "b", b"2")] * 12, 400, "Too many files"),
        ([("reference", "a", b"x")], 400, "The form has no generation image"),
        ([("path", "/etc/passwd", b"x")], 400, "reference and generation, and masks"),
    ],
)
def test_invalid_and_oversized_forms_are_refused(port, files, status, message):
    found, _, body = ask(port, body=form(*files))
    assert (found, message in body.decode()) == (status, True), body


def test_more_bytes_than_announced_are_refused(port):
    def chunks():
        yield form(("reference", "a", b"1"))[:-8]
        for _ in range(100):
            yield b"x" * 1000

    try:
        status, _, _ = ask(port, body=chunks())
    except (BrokenPipeError, ConnectionResetError):
        status = 413  # it hung up while we were still sending
    assert status in (400, 413)
    assert ask(port, "GET", "/")[0] == 200


@pytest.mark.usefixtures("jumping_clock")
def test_a_stalled_upload_times_out(port):
    begin = time.monotonic()
    with closing(socket.create_connection(("127.0.0.1", port), timeout=30)) as connection:
        connection.sendall(
            b"POST /score HTTP/1.1\r\nHost: localhost\r\nContent-Length: 500\r\n"
            b"Content-Type: multipart/form-data; boundary=" + BOUNDARY.encode() + b"\r\n\r\n--"
        )
        assert connection.recv(100).startswith(b"HTTP/1.1 408")
    assert 0.9 * SMALL.seconds < time.monotonic() - begin < 20


@contextmanager
def clients(port, count, *sent):
    """Yield sockets that send some text and then wait."""
    with ExitStack() as stack:
        opened = []
        for _ in range(count):
            one = stack.enter_context(closing(socket.socket()))
            one.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            one.settimeout(30)
            one.connect(("127.0.0.1", port))
            one.sendall("".join(sent).encode())
            opened.append(one)
        yield opened


def received(client):
    """Return the number of bytes until the server hangs up."""
    count = 0
    try:
        while part := client.recv(1 << 20):
            count += len(part)
    except ConnectionResetError:
        pass
    return count


HEAD = "GET / HTTP/1.1\r\nHost: localhost\r\n"


UNFINISHED = ["", HEAD, HEAD + "Content-Length: 9\r\n\r\n123", HEAD + "\r\n" + HEAD]


@pytest.mark.parametrize("sent", UNFINISHED)
def test_idle_clients_do_not_block_others(port, sent):
    """Seventy clients, before the first check."""
    for _ in range(2):
        with clients(port, 70, sent):
            assert ask(port, "GET", "/")[0] == 200


def test_a_new_client_is_not_dropped_for_itself(port, monkeypatch):
    monkeypatch.setattr("vsm_fast.report.server._MAX_CONNECTIONS", 0)
    assert ask(port, "GET", "/")[0] == 200


@pytest.mark.parametrize("sent", [*UNFINISHED, HEAD + "\r\n"])
def test_clients_without_progress_are_dropped(monkeypatch, sent):
    lost, plain = threading.Semaphore(0), Connection.connection_lost
    monkeypatch.setattr(Connection, "patience", 0.1)
    monkeypatch.setattr(
        Connection, "connection_lost", lambda *given: plain(*given) or lost.release()
    )
    page = "x" * 20_000_000  # more than the system keeps for a client that does not read
    with served(dict, page=page) as number:
        with clients(number, 3, sent) as opened:
            for _ in opened:
                assert lost.acquire(timeout=30)
            for client in opened:
                assert received(client) < len(page)
        assert ask(number, "GET", "/")[2] == page.encode()


def test_a_request_in_progress_is_not_dropped(monkeypatch):
    monkeypatch.setattr(Connection, "patience", 0.1)
    body = form(("reference", "a", b"1"), ("generation", "b", b"2"))
    with served(lambda _: time.sleep(1) or {"done": True}) as number:
        assert json.loads(ask(number, body=body)[2]) == {"done": True}


@pytest.mark.parametrize("path", ["/../etc/passwd", "/%2e%2e/%2e%2e/etc/passwd", "/static/x", "//"])
def test_no_path_reaches_a_file(port, path):
    status, _, body = ask(port, "GET", path)
    assert status == 404
    assert b"root:" not in body


@pytest.mark.usefixtures("jumping_clock")
def test_requests_are_serialized_and_few_wait():
    go, running, most = threading.Event(), [], []

    def score(_):
        running.append(1)
        most.append(len(running))
        go.wait(30)
        running.pop()
        return {}

    body = form(("reference", "a", b"1"), ("generation", "b", b"2"))
    answers = []
    with served(score, Limits()) as number:
        threads = [
            threading.Thread(target=lambda: answers.append(ask(number, body=body)))
            for _ in range(MAX_REQUESTS + 2)
        ]
        for thread in threads:
            thread.start()
        end = time.monotonic() + 30
        while len(answers) < 2:
            assert time.monotonic() < end
            time.sleep(0.01)
        assert [(status, headers["retry-after"]) for status, headers, _ in answers] == [
            (503, "10"), (503, "10"),
        ]  # fmt: skip
        assert ask(number, "GET", "/")[0] == 200
        go.set()
        for thread in threads:
            thread.join(30)
    assert [status for status, _, _ in answers[2:]] == [200] * MAX_REQUESTS
    assert max(most) == 1


def test_scoring_stops_with_the_server(tmp_path):
    def score(_):
        raise ServerStopped

    body = form(("reference", "a", b"1"), ("generation", "b", b"2"))
    with served(score) as number:
        assert ask(number, body=body)[0] == 503
    stop = threading.Event()
    stop.set()
    images = {side: [UploadedImage("a", tmp_path / "a", None)] for side in SIDES}
    with pytest.raises(ServerStopped):
        score_images(VSMScorer.from_pretrained("tiny"), stop, images)


@contextmanager
def command(*arguments):
    """Run the command and yield its process and address."""
    with subprocess.Popen(
        [sys.executable, "-m", "vsm_fast", "serve", "--port", "0", *arguments],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    ) as process:  # fmt: skip
        try:
            line = process.stdout.readline()
            yield process, re.match(r"http://127\.0\.0\.1:\d+/", line)[0]
        finally:
            process.kill()


def drop(tab, field, name, size):
    """Drop a file on a field."""
    tab.run(
        "(() => { const dataTransfer = new DataTransfer();"
        f"dataTransfer.items.add(new File([new Uint8Array({size})], {name!r}));"
        f"document.querySelector('input[name={field}]').closest('.drop').dispatchEvent("
        "new DragEvent('drop', { dataTransfer, cancelable: true })) })()"
    )


@needs_chromium
def test_the_page_scores_uploads_and_ctrl_c_ends_it(tmp_path):
    unmasked = shutil.copy(REPAINTED, tmp_path / "unmasked.jpg")
    broken = tmp_path / "broken.png"
    broken.write_bytes(b"no image at all")
    with command() as (process, address), chromium() as tab:
        tab.open(address)
        assert "No results yet" in tab.run("document.body.innerText")
        choice = "[...document.querySelector('select[name=masks]').options].map((o) => o.value)"
        assert tab.run(choice) == ["auto", "whole"]
        said = "document.getElementById('upload-said').textContent"
        drop(tab, "generation", "huge.png", 33 * 2**20)
        assert tab.run(said) == "huge.png is larger than 32 MiB."
        drop(tab, "generation", "small.png", 10)
        assert tab.run(said) == ""
        assert "small.png" in tab.run("document.getElementById('upload').innerText")
        assert tab.run("document.querySelector('#upload button').disabled")  # no reference yet
        for field, files in (
            ("reference", [REFERENCE, mask_of(REFERENCE)]),
            ("generation", [REPAINTED, mask_of(REPAINTED), broken, unmasked]),
        ):
            tab.page.set_input_files(f"input[name={field}]", files)
        tab.page.click("#upload button")
        tab.wait("vsmReport.dataset.count === 3")
        tab.settle()
        expected = score_batch(
            [REFERENCE], [REPAINTED], ref_masks=[mask_of(REFERENCE)],
            gen_masks=[mask_of(REPAINTED)],
        )  # fmt: skip
        assert tab.run("vsmReport.scores[0]") == pytest.approx(float(expected.score[0]), abs=1e-5)
        assert tab.run("vsmReport.dataset.text('status', 1)") == "unreadable_image"
        assert tab.run("vsmReport.dataset.text('gen_mask_origin', 2)") == "grabcut"
        reason = tab.run("vsmReport.dataset.text('reason', 1)")
        assert "broken.png" in reason
        assert "vsm-fast-" not in reason
        assert tab.run("document.querySelector('#frame-generation img').naturalWidth") > 0
        head = tab.run("document.getElementById('head').innerText").split()
        assert head[:4] == ["Pairs", "3", "Scored", "2"]
        assert tab.complaints == []
        process.send_signal(signal.SIGINT)
        assert process.wait(30) == 130
        errors = process.stderr.read()
        assert errors == "vsm-fast: interrupted\n"


def test_results_of_a_job(tmp_path):
    manifest = write_pairs(tmp_path / "in", 3)
    model = ("--model", str(write_model(tmp_path / "model")))
    job = ("score", "--manifest", str(manifest), "--out", f"{tmp_path}/scores/", "--quiet")
    assert main([*job, *model, "--device", "cpu"]) == 0
    with command(f"{tmp_path}/scores", "--masks", "whole", *model) as (_, address):
        port = int(address.rpartition(":")[2].strip("/"))
        page = ask(port, "GET", "/")[2].decode()
        assert "<dt>Pairs</dt><dd>3</dd>" in page
        assert page.index('value="whole"') < page.index('value="auto"')
        assert json.loads(ask(port, body=with_masks("whole"))[2])["header"]["count"] == 1


def test_wrong_usage(tmp_path, capsys):
    assert main(["serve", str(tmp_path / "none.parquet")]) == 2
    assert "does not exist" in capsys.readouterr().err
    with socket.create_server(("127.0.0.1", 0)) as taken:
        assert main(["serve", "--port", str(taken.getsockname()[1])]) == 2
    assert "cannot listen on 127.0.0.1" in capsys.readouterr().err
