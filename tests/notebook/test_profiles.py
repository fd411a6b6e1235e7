import pytest

from ecmf_utils.files import EcmfError, read_json
from ecmf_utils.notebook import parameters, profiles
from tests.small_notebooks import make_notebook, make_pipeline


@pytest.fixture
def notebooks(home, monkeypatch):
    folder = make_pipeline(home / "notebooks")
    monkeypatch.setenv("ECMF_NOTEBOOKS", str(folder))
    return folder


def profile(notebooks, name, text):
    (notebooks / "profiles" / f"{name}.yaml").write_text(text)


@pytest.mark.parametrize(
    ("kind", "default", "given", "expected"),
    [
        ("str", "", "007", "007"),
        ("str", "", "None", "None"),
        ("str", "", "a=b", "a=b"),
        ("int", 0, "007", 7),
        ("int", 0, "-3", -3),
        ("float", 0.0, "1e-3", 0.001),
        ("float", 0.0, 2, 2.0),
        ("bool", False, "True", True),
        ("bool", True, "false", False),
        ("list", ["a"], "b, c", ["b", "c"]),
        ("list", ["a"], "", []),
        ("list", [0], "1,2", [1, 2]),
        ("list", [0.5], "[1, 2]", [1.0, 2.0]),
        ("list[int]", [], "3", [3]),
        ("dict", {}, '{"a": 1}', {"a": 1}),
        ("int | None", None, "None", None),
        ("int | None", None, "null", None),
        ("int | None", None, "5", 5),
        ("Optional[float]", None, "0.5", 0.5),
        ("str | int", "", "007", "007"),
        ("Literal['mean', 'max']", "mean", "max", "max"),
        ("Literal[1, 2]", 1, "2", 2),
        ("list[int] | None", None, "1,2", [1, 2]),
        ("list", [], "[attention, residual]", ["attention", "residual"]),
        ("list", [], "[]", []),
        ("list[Literal['a', 'b']]", [], "b", ["b"]),
        ("int >= 1", 1, "1", 1),
        ("0 <= float < 1", 0.5, "0.99", 0.99),
    ],
)
def test_value_takes_the_declared_type(kind, default, given, expected):
    value = parameters.coerce(given, parameters.Parameter("p", kind, default))
    assert value == expected
    assert type(value) is type(expected)


@pytest.mark.parametrize(
    ("kind", "given"),
    [
        ("int", "1.5"),
        ("int", 1.5),
        ("int", True),
        ("int", "None"),
        ("int", "x"),
        ("float", "nan"),
        ("float", "inf"),
        ("float", True),
        ("bool", "yes"),
        ("bool", 1),
        ("str", 7),
        ("str", None),
        ("list", 3),
        ("list[int]", "1,b"),
        ("list", "[1"),
        ("dict", "[1]"),
        ("dict", "{"),
        ("Literal['mean', 'max']", "median"),
        ("int | None", ""),
        ("int >= 1", "0"),
        ("int >= 1", "1.5"),
        ("0 <= float < 1", "1"),
        ("0 <= float < 1", -0.1),
        ("list[Literal['a', 'b']]", "c"),
        ("list", '["a]'),
        ("list", "[a"),
    ],
)
def test_value_of_another_type_is_refused_by_name(kind, given):
    with pytest.raises(EcmfError, match=r"parameter p is .* is not") as error:
        parameters.coerce(given, parameters.Parameter("p", kind, None))
    assert repr(given) in str(error.value)


@pytest.mark.parametrize(
    ("kind", "given"),
    [
        ("Literal[1, 2]", True),
        ("Literal[1, 2]", 1.0),
        ("int | None", True),
        ("list[int]", [1, True]),
        ("list[float]", "[NaN]"),
        ("float | None", "inf"),
        ("list[int >= 1] | None", "1,0"),
        ("float", 10**400),
        ("list", "[" * 100_000),
    ],
)
def test_checks_hold_inside_unions_and_lists(kind, given):
    with pytest.raises(EcmfError, match="parameter p is"):
        parameters.coerce(given, parameters.Parameter("p", kind, None))


def test_dict_of_named_types_is_checked_inside():
    parameter = parameters.Parameter("p", "dict[str, int]", {})
    assert parameters.coerce('{"a": 1}', parameter) == {"a": 1}
    with pytest.raises(EcmfError, match=r"parameter p is dict\[str, int\] \(as JSON"):
        parameters.coerce({"a": 1.5}, parameter)


def test_default_of_a_bare_list_says_of_what_it_is_a_list():
    for kind in ("list", "list | None"):
        with pytest.raises(EcmfError, match="which '1,b' is not"):
            parameters.coerce("1,b", parameters.Parameter("p", kind, [0]))
    assert parameters.coerce("1,b", parameters.Parameter("p", "list", [0, "a"])) == ["1", "b"]


@pytest.mark.parametrize(
    "kind",
    [
        "set",
        "integer",
        "list[set]",
        "int >",
        "int == 1",
        "str >= 1",
        "1 < int > 'a'",
        "int + 1",
        "__import__('os')",
        "f()",
    ],
)
def test_type_that_a_parameter_cannot_have_is_named_and_not_evaluated(notebooks, kind):
    make_notebook(notebooks, "11_more", parameters=f'n: "{kind}" = 1')
    with pytest.raises(EcmfError, match=r"11_more.ipynb: parameter n cannot have the type") as error:
        parameters.read_parameters("11")
    assert kind in str(error.value) and "\n" not in str(error.value)


def test_parameters_cell_is_read_with_types_and_remarks(notebooks):
    make_notebook(
        notebooks,
        "11_more",
        parameters='# data\nname: str = "a=b"  # which # one\nn: int | None = -1\nplain = [1]\n',
    )
    found = parameters.read_parameters("11")
    assert [(p.name, p.kind, p.default) for p in found.values()] == [
        ("name", "str", "a=b"),
        ("n", "int | None", -1),
        ("plain", "list", [1]),
    ]
    assert found["name"].remark == "which # one"


@pytest.mark.parametrize("line", ["n: int = 1 + 1", "import os", "n: int", "n: int = 'x'", "n = f()"])
def test_parameters_cell_holds_only_typed_literals(notebooks, line):
    make_notebook(notebooks, "11_more", parameters=f"a: int = 1\n{line}")
    with pytest.raises(EcmfError, match="11_more.ipynb"):
        parameters.read_parameters("11")


def test_notebook_without_parameters_cell_says_so(notebooks):
    path = make_notebook(notebooks, "11_more")
    path.write_text(path.read_text().replace('"parameters"', '"other"'))
    with pytest.raises(EcmfError, match="no code cell has the tag 'parameters'"):
        parameters.read_parameters("11")


def test_notebook_is_found_by_number_name_and_path(notebooks):
    wanted = "22_extract_scene"
    path = notebooks / f"{wanted}.ipynb"
    assert {parameters.find_notebook(n) for n in ("22", wanted, path, str(path))} == {wanted}
    with pytest.raises(EcmfError, match="did you mean 22_extract_scene"):
        parameters.find_notebook("22_extract_scenes")


def test_profile_adds_to_what_it_extends(notebooks):
    found = profiles.load_profile("more")
    assert found["labelled"] is False
    assert found["branches"] == ["text"]
    assert found["all"] == {"seed": 2}


def test_members_are_not_inherited(notebooks):
    profile(notebooks, "part", "extends: both\n")
    assert profiles.load_profile("both")["members"] == ["words", "more"]
    assert profiles.load_profile("part")["members"] == []


def test_a_key_without_a_value_keeps_what_is_inherited(notebooks):
    profile(notebooks, "empty", "extends: more\nfeatures:\nbranches:\nlabels:\nmembers:\nall:\nnotebooks:\nlabelled:\n")
    assert profiles.load_profile("empty") == profiles.load_profile("more") | {"name": "empty"}


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("extends: nothing\n", "unknown profile 'nothing'"),
        ("extends: bad\n", "extends itself"),
        ("branch: [text]\n", "unknown key 'branch'; did you mean branches"),
        ("branches: text\n", "branches is to be a list"),
        ("labels: [sad, sad]\n", "names something twice"),
        ("all: {sede: 1}\n", "unknown parameter 'sede'; did you mean seed"),
        ("notebooks:\n  22_extract_scene: {sede: 1}\n", "22_extract_scene: unknown parameter"),
        ("notebooks:\n  99_none: {seed: 1}\n", "unknown notebook '99_none'"),
        ("notebooks:\n  22: 5\n", "expected `name: value` lines"),
        ("all: {seed: 1\n", "bad.yaml, line 2: not valid YAML"),
        ("- a\n", "expected `key: value` lines"),
    ],
)
def test_broken_profile_gives_one_line(notebooks, text, line):
    profile(notebooks, "bad", text)
    with pytest.raises(EcmfError) as error:
        profiles.load_profile("bad")
    assert line in str(error.value)
    assert "\n" not in str(error.value)


def test_set_beats_notebook_beats_all_beats_default(notebooks):
    profile(notebooks, "p", "all: {seed: 1}\nnotebooks:\n  '24': {seed: 2}\n")
    assert profiles.resolve("22", "tiny")["seed"] == 0
    assert profiles.resolve("22", "p")["seed"] == 1
    assert profiles.resolve("24", "p")["seed"] == 2
    assert profiles.resolve("24", "p", ["seed=3"])["seed"] == 3
    assert profiles.resolve("24", "p", ["22.seed=3"])["seed"] == 2
    assert profiles.resolve("24", "p", ["seed=3", "24.seed=4"])["seed"] == 4


def test_profile_name_labels_and_branches_reach_the_notebook(notebooks):
    values = profiles.resolve("24", "tiny")
    assert values["profile"] == "tiny"
    assert values["labels"] == ["sad", "happy"]
    assert values["branches"] == ["text"]


@pytest.mark.parametrize("text", ["seed", "=3", ".seed=3", "profile=demo", "99.seed=1", "sede=1"])
def test_malformed_set_is_refused(notebooks, text):
    with pytest.raises(EcmfError):
        profiles.resolve("22", "tiny", [text])


def test_set_reaches_only_notebooks_that_declare_it(notebooks):
    make_notebook(notebooks, "90_benchmark", parameters="repeats: int = 3")
    sets = ["repeats=5", "22.seed=1"]
    assert profiles.select_sets("90_benchmark", sets) == ["repeats=5"]
    assert profiles.select_sets("22_extract_scene", sets) == ["22.seed=1"]
    with pytest.raises(EcmfError, match="unknown parameter 'repeats'"):
        profiles.check_sets(sets, ["22_extract_scene"])


def test_folder_profile_is_named_after_its_source(notebooks, home):
    (home / "my clips").mkdir()
    name, rest = profiles.prepare("folder", [f"source={home / 'my clips'}", "labelled=true", "seed=4"])
    assert (name, rest) == ("folder-my-clips", ["seed=4"])
    assert profiles.load_profile(name)["labelled"] is True
    assert profiles.resolve("00", name)["source"] == str(home / "my clips")
    assert profiles.resolve("00", name)["profile"] == name
    assert read_json(home / "data" / name / "profile.json")["extends"] == "folder"


def test_two_folders_of_one_name_do_not_share_outputs(notebooks, home):
    for place in ("a", "b"):
        (home / place / "clips").mkdir(parents=True)
    name, _ = profiles.prepare("folder", [f"source={home / 'a' / 'clips'}"])
    assert profiles.prepare("folder", [f"source={home / 'a' / 'clips'}"])[0] == name
    with pytest.raises(EcmfError, match=f"{name} has the outputs of {home / 'a' / 'clips'}: rename one"):
        profiles.prepare("folder", [f"source={home / 'b' / 'clips'}"])
    (home / "a" / "clips").rename(home / "elsewhere")  # moved: the same clips at another place
    assert profiles.prepare("folder", [f"source={home / 'b' / 'clips'}"])[0] == name


@pytest.mark.parametrize("sets", [[], ["source="], ["source=/no/such/folder"]])
def test_folder_profile_needs_a_folder(notebooks, sets):
    with pytest.raises(EcmfError, match="source=DIR|no such folder"):
        profiles.prepare("folder", sets)


def test_source_is_meant_from_the_callers_folder(notebooks, home, monkeypatch):
    (home / "clips").mkdir()
    monkeypatch.chdir(home)
    assert profiles.prepare("tiny", ["source=clips"])[1] == [f"source={home / 'clips'}"]


def test_profile_remembers_where_its_corpus_lies(notebooks, home):
    (home / "clips").mkdir()
    first = f"source={home / 'clips'}"
    make_notebook(notebooks, "00_start_here", parameters='source: str = ""\nmanifest: str = ""')
    assert profiles.prepare("tiny", [first])[1] == [first]
    assert profiles.prepare("tiny", [])[1] == []  # said, but nothing was read there yet
    profiles.remember("tiny", {"source": str(home / "clips"), "manifest": ""})
    assert profiles.prepare("tiny", ["seed=3"])[1] == [f"00_start_here.{first}", "seed=3"]
    make_notebook(notebooks, "90_benchmark", parameters="seed: int = 0")  # one that knows no source
    assert profiles.resolve("90", "tiny", profiles.prepare("tiny", [])[1]) == {"seed": 0}


def test_features_of_a_branch_that_is_none_are_refused(notebooks):
    profile(notebooks, "p", "branches: [text]\nfeatures: {txet: t.csv}\n")
    with pytest.raises(EcmfError, match="profile p: features: unknown branch 'txet'; did you mean text?"):
        profiles.load_profile("p")


def test_label_map_and_features_of_a_profile_reach_the_notebook(notebooks):
    make_notebook(notebooks, "90_benchmark", parameters="label_map: dict = {}\nfeatures: dict = {}")
    profile(notebooks, "p", "label_map: {calm: sad, disgust: null}\nfeatures: {text: t.csv}\n")
    values = profiles.resolve("90", "p")
    assert values["label_map"] == {"calm": "sad", "disgust": None}
    assert values["features"] == {"text": "t.csv"}
    assert profiles.resolve("90", "p", ['label_map={"calm": null}'])["label_map"] == {"calm": None}
