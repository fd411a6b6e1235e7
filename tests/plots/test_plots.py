"""Figures: fixed colours, text from data taken literally, any label set can be drawn."""

import io
import warnings

import numpy as np
import pandas as pd
import pytest
from matplotlib.figure import Figure
from PIL import Image

from ecmf_utils import plots
from ecmf_utils.evaluation.robustness import list_subsets
from ecmf_utils.notebook import Note
from ecmf_utils.plots import theme

SIX = ["neutral", "angry", "happy", "sad", "worried", "surprise"]
NINE = [*SIX, "disgust", "calm", "price $5 and $6"]
FIVE = ["scene", "face", "audio", "text", "context"]
rng = np.random.default_rng(0)


def draw(figure):
    """The rendered picture; a warning of matplotlib or seaborn would reach a notebook's stderr."""
    assert isinstance(figure, Figure)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        warnings.simplefilter("ignore", ResourceWarning)
        return np.asarray(Image.open(io.BytesIO(figure.image_bytes())).convert("RGB"))


def examples(labels, branches):
    """One call of every plot function for a label set and a branch list."""
    n = 60
    y = [labels[i] for i in rng.integers(0, len(labels), n)]
    split = np.array(["train", "test", "unlabelled"])[np.arange(n) % 3]
    clips = pd.DataFrame({"label": y, "split": split, "seconds": rng.random(n)})
    clips.loc[split == "unlabelled", "label"] = None
    history = pd.DataFrame({"epoch": [1, 2, 1, 2], "loss": 1.0, "inner_loss": 1.0, "inner_f1": 0.5})
    scores = pd.DataFrame({"model": ["a", "b", "a"], "weighted_f1": [0.5, 0.6, 0.55]})
    scores = scores.assign(low=0.4, high=0.7, group=["x", "x", "y"])
    bins = pd.DataFrame({"confidence": [0.3, 0.7], "accuracy": [0.2, 0.8], "n": [5, 9]})
    counts = pd.DataFrame({"ok": 5, "missing": 2, "failed": 1}, index=branches)
    weights = rng.dirichlet(np.ones(len(branches)), n)
    answers = pd.DataFrame(rng.dirichlet(np.ones(len(labels)), 8), columns=labels)
    f1 = pd.DataFrame({"f1": rng.random(len(labels)), "support": 9}, index=labels)
    tile = np.zeros((20, 20, 3), np.uint8)
    kept = pd.DataFrame({"branches": ["+".join(some) for some in list_subsets(branches)]})
    kept = kept.assign(weighted_f1=0.5, low=0.4, high=0.6)
    noisy = pd.DataFrame([(b, s, 0.5, 0.4, 0.6) for b in branches for s in (0, 1)])
    curves = pd.DataFrame([(k, e, k / 9 + e / 99) for k in range(5) for e in range(1, 9)])
    curves.columns = ["fold", "epoch", "weighted_f1"]
    noisy.columns = ["branch", "noise", "weighted_f1", "low", "high"]
    return {
        "class_balance": plots.class_balance(clips, labels),
        "distributions": plots.distributions(clips, {"seconds": "duration (s)"}),
        "contact_sheet": plots.contact_sheet([tile, None], ["one $ $", "two"], title="a $ b $"),
        "waveform_spectrogram": plots.waveform_spectrogram(rng.normal(size=4000), 16000, "$x$ $"),
        "embedding": plots.embedding(rng.normal(size=(n, 5)), clips["label"], labels, "audio"),
        "availability": plots.availability(counts),
        "curves": plots.curves(history),
        "branch_weights": plots.branch_weights(weights, branches, y, labels),
        "scores_forest": plots.scores_forest(scores, reference=1 / 6),
        "confusion": plots.confusion(rng.integers(0, 9, (len(labels),) * 2), labels),
        "calibration": plots.calibration(bins),
        "refine_flow": plots.refine_flow(clips["label"], y, labels),
        "label_distributions": plots.label_distributions(answers),
        "class_f1": plots.class_f1(f1),
        "subsets": plots.subsets(kept),
        "noise": plots.noise(noisy, kept),
        "official_curves": plots.official_curves(curves),
    }


@pytest.fixture(scope="module", autouse=True)
def small():
    """The theme, drawn coarsely: what is tested is that it draws."""
    theme.set_theme()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(theme, "SHARPNESS", 0.6)
        yield


@pytest.mark.parametrize(
    ("labels", "branches"),
    [(SIX, FIVE), (NINE, [*FIVE, "pose", "gaze"]), (["yes", "no"], ["text"])],
)
def test_every_figure_draws_without_warning(labels, branches):
    for name, figure in examples(labels, branches).items():
        picture = draw(figure)
        assert 400 <= figure.get_figwidth() * 100 <= 900, name
        assert picture.std() > 1, f"{name} is blank"


def test_colours_are_fixed_and_distinct():
    colours = theme.emotion_colours(NINE)
    assert len(set(colours.values())) == len(NINE)
    assert theme.emotion_colours(SIX[::-1])["sad"] == colours["sad"]
    assert theme.emotion_colours(["sadness"])["sadness"] == colours["sad"]
    branches = theme.branch_colours([*FIVE, "pose"])
    assert len({*branches.values(), *colours.values()}) >= len(branches) + len(SIX)


def test_synonyms_never_share_a_colour():
    colours = theme.emotion_colours(["worried", "fear", "fearful"])
    assert len(set(colours.values())) == 3


def test_figure_shows_once_with_alt_text():
    figure = plots.calibration(pd.DataFrame({"confidence": [0.5], "accuracy": [0.5], "n": [3]}))
    data, metadata = figure._repr_mimebundle_()
    assert set(data) == {"image/png", "text/plain"}
    assert metadata["image/png"]["alt"] == "Accuracy against confidence"
    assert "Accuracy" in data["text/plain"] and "0x" not in data["text/plain"]


def test_pyplot_keeps_no_figure():
    import matplotlib.pyplot as plt

    examples(SIX, FIVE)
    assert plt.get_fignums() == []


def test_absent_branches_do_not_lower_the_mean_weight():
    weights = np.array([[0.5, 0.5], [1.0, 0.0]])
    figure = plots.branch_weights(weights, ["text", "face"], ["sad", "sad"], ["sad"])
    shown = [text.get_text() for text in figure.axes[1].texts]
    assert shown == ["0.75", "0.50"]


def test_refine_flow_counts_dropped_and_added():
    figure = plots.refine_flow(["sad", "sad", None], ["sad", None, "happy"], ["sad", "happy"])
    columns = [tick.get_text() for tick in figure.axes[0].get_xticklabels()]
    rows = [tick.get_text() for tick in figure.axes[0].get_yticklabels()]
    assert columns == ["sad", "happy", "dropped"] and rows == ["sad", "happy", "no label"]


def test_confusion_is_normalised_by_row():
    figure = plots.confusion(np.array([[3, 1], [0, 0]]), ["sad", "happy"])
    assert [t.get_text() for t in figure.axes[0].texts] == ["75%\n3", "25%\n1", "0%\n0", "0%\n0"]


def test_silence_and_a_very_short_sound_have_a_spectrogram():
    draw(plots.waveform_spectrogram(np.zeros(50, np.float32), 16000))


def test_column_without_a_value_is_named_as_such():
    figure = plots.distributions(pd.DataFrame({"x": [None, None]}), {"x": "x (s)"})
    assert figure.axes[0].get_title(loc="left") == "none known, 2 missing"


def test_curves_end_where_most_fits_have_stopped_and_mark_the_epochs_that_are_kept():
    fits = [
        pd.DataFrame({"epoch": range(n), "loss": 1.0, "inner_loss": [*range(n, 0, -1)], "inner_f1": 0.1 * i, "run": i})
        for i, n in enumerate([2, 4, 4, 9])
    ]
    loss, score = plots.curves(pd.concat(fits)).axes
    assert list(loss.lines[0].get_xdata()) == [1, 2, 3, 4]  # one of four goes on
    assert score.get_title("left") == "epoch kept: 2 to 9, median 4" and list(score.lines[-1].get_xdata()) == [4, 4]


def test_calibration_keeps_its_interval_between_0_and_1():
    bins = pd.DataFrame({"confidence": [0.2, 0.9], "accuracy": [1 / 6, 1.0], "n": [6, 40]})
    band = plots.calibration(bins).axes[0].collections[0].get_paths()[0].vertices[:, 1]
    assert 0 < band.min() < 1 / 6 and band.max() <= 1


def test_noise_is_a_panel_a_branch_with_the_level_of_the_hidden_branch():
    kept = pd.DataFrame({"branches": ["face+audio", "face", "audio"], "weighted_f1": [0.9, 0.7, 0.6]})
    noisy = pd.DataFrame([(b, s, 0.8, 0.7, 0.9) for b in ("face", "audio") for s in (0, 1)])
    curves = pd.DataFrame([(k, e, k / 9 + e / 99) for k in range(5) for e in range(1, 9)])
    curves.columns = ["fold", "epoch", "weighted_f1"]
    noisy.columns = ["branch", "noise", "weighted_f1", "low", "high"]
    levels = {ax.get_title("left"): ax.lines[-1].get_ydata()[0] for ax in plots.noise(noisy, kept).axes}
    assert levels == {"face": 0.6, "audio": 0.7}


def test_curves_of_a_run_without_inner_rows_show_the_loss_alone():
    history = pd.DataFrame({"epoch": [0, 1, 2], "loss": [1.0, 0.7, 0.6]})
    draw(plots.curves(history))
    assert len(plots.curves(history).axes) == 1


NOTHING = {
    "class_balance": lambda: plots.class_balance(pd.DataFrame({"label": [None], "split": ["train"]}), SIX),
    "contact_sheet": lambda: plots.contact_sheet([], [], empty="No clip has a face."),
    "waveform_spectrogram": lambda: plots.waveform_spectrogram(None, 16000),
    "embedding": lambda: plots.embedding(np.zeros((2, 3)), [None, None], SIX),
    "distributions": lambda: plots.distributions(pd.DataFrame({"seconds": []}), {"seconds": "duration (s)"}),
    "refine_flow": lambda: plots.refine_flow([], [], SIX),
    "branch_weights": lambda: plots.branch_weights(None, FIVE, [], SIX),
    "label_distributions": lambda: plots.label_distributions(pd.DataFrame(columns=SIX)),
    "subsets": lambda: plots.subsets(pd.DataFrame()),
    "noise": lambda: plots.noise(pd.DataFrame(), pd.DataFrame()),
    "official_curves": lambda: plots.official_curves(pd.DataFrame()),
}


@pytest.mark.parametrize("name", NOTHING)
def test_where_there_is_nothing_to_draw_a_note_says_so(name):
    note = NOTHING[name]()
    assert isinstance(note, Note) and note.endswith(".")
