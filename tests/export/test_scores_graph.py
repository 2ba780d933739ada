"""The exported matching against the library's, ties and empty masks included."""

import math

import onnxruntime
import pytest
import torch
from tiny_models import AGGREGATION

from vsm_fast import ModelError
from vsm_fast.export import scores_graph
from vsm_fast.export.scores_graph import INPUTS, PairScores, example_pairs, export_scores
from vsm_fast.runtimes.exported import BatchRange


@pytest.fixture(scope="module")
def session(tmp_path_factory):
    path = tmp_path_factory.mktemp("scores") / "scores.onnx"
    export_scores(path, AGGREGATION, BatchRange(1, 2, 8), 20)
    return onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])


def run(session, inputs):
    feed = {name: value.numpy() for name, value in zip(INPUTS, inputs, strict=True)}
    return [torch.from_numpy(value) for value in session.run(None, feed)]


@pytest.mark.parametrize("count", [1, 3, 8])
def test_any_number_of_pairs(session, count):
    inputs = example_pairs(count, AGGREGATION)
    found = run(session, inputs)
    scores_graph._check(inputs, *found)
    assert found[0].shape == (count,)
    assert 0 < found[1].sum() < inputs[2].sum()


def test_of_equal_rivals_the_first_wins(session):
    inputs = list(example_pairs(1, AGGREGATION))
    inputs[0] = inputs[0][:, :, :1, :1].expand_as(inputs[0]).contiguous()  # all choose one target
    inputs[6] = torch.tensor([-1.0])
    found = run(session, inputs)
    scores_graph._check(inputs, *found)
    assert found[1][0].nonzero().tolist() == [[int(inputs[2].flatten().nonzero()[0])]]


@pytest.mark.parametrize("empty", [2, 5])
def test_without_a_point_the_score_is_nan(session, empty):
    inputs = list(example_pairs(2, AGGREGATION))
    inputs[empty] = inputs[empty].clone()
    inputs[empty][0] = False
    score, matched, _ = run(session, inputs)
    assert math.isnan(score[0])
    assert not math.isnan(score[1])
    assert not matched[0].any()


def test_a_graph_that_scores_otherwise_is_refused(tmp_path, monkeypatch):
    class Wrong(PairScores):
        def forward(self, *inputs):
            score, matched, visual = super().forward(*inputs)
            return score * 0.5, matched, visual

    monkeypatch.setattr(scores_graph, "PairScores", Wrong)
    with pytest.raises(ModelError, match="disagrees"):
        export_scores(tmp_path / "scores.onnx", AGGREGATION, BatchRange(2, 2, 2), 20)
