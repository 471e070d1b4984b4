"""The model file: what is written is read back to the bit, and nothing else is ever read as a model."""

from __future__ import annotations

import base64
import contextlib
import copy
import json
import math
import os
import stat
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

import streamlr
from streamlr import model_file
from streamlr.errors import StreamlrError

N = 240
RNG = np.random.default_rng(2718)
X = RNG.normal(size=N)
Z = RNG.normal(size=N)
G = RNG.choice(["a", "b", "c"], N)
Y = (RNG.random(N) < 1 / (1 + np.exp(-0.5 * X))).astype(np.int64)
ROWS = np.arange(N)


def with_sure_levels() -> np.ndarray:
    g = G.astype("U4")
    g[np.flatnonzero(Y == 1)[:9]] = "up"
    g[np.flatnonzero(Y == 0)[:7]] = "down"
    return g


def not_converged() -> streamlr.Model:
    with pytest.warns(streamlr.ConvergenceWarning):
        return streamlr.fit({"y": Y, "x": X, "z": Z}, max_passes=1)


def plain(**columns: Any) -> streamlr.Model:
    return streamlr.fit(pa.table({"y": Y, **columns}), target="y")


year = 1990.0 + ROWS % 30
MODELS: dict[str, tuple[Callable[[], streamlr.Model], dict[str, Any]]] = {
    "numbers": (lambda: plain(x=X, z=Z), {"x": X, "z": Z}),
    "intercept alone": (lambda: streamlr.fit({"y": Y, "x": X}, "y ~ 1"), {"x": X}),
    "no intercept": (lambda: streamlr.fit({"y": Y, "x": X, "g": G}, "y ~ 0 + g + x"), {"x": X, "g": G}),
    "no terms": (lambda: streamlr.fit({"y": Y, "x": X}, "y ~ 0"), {"x": X}),
    "aliased": (lambda: plain(x=X, z=Z, s=X + Z), {"x": X, "z": Z, "s": X + Z}),
    "aliased levels": (
        lambda: plain(g=G, h=np.where(G == "b", "is b", "other")),
        {"g": G, "h": np.where(G == "b", "is b", "other")},
    ),
    "set aside": (lambda: plain(x=X, g=with_sure_levels()), {"x": X, "g": with_sure_levels()}),
    "float32": (lambda: plain(x=X.astype(np.float32)), {"x": X.astype(np.float32)}),
    "far from zero": (lambda: plain(x=1e9 + X), {"x": 1e9 + X}),
    "reduced": (
        lambda: plain(a=year, b=year**2, c=year**3),
        {"a": year, "b": year**2, "c": year**3},
    ),
    "truth": (lambda: plain(b=X > 0, x=Z), {"b": X > 0, "x": Z}),
    "whole levels": (
        lambda: streamlr.fit({"y": Y, "h": 2**53 + ROWS % 3}, target="y", categorical=["h"]),
        {"h": 2**53 + ROWS % 3},
    ),
    "float levels": (
        lambda: streamlr.fit({"y": Y, "h": ROWS % 3 / 3}, target="y", categorical=["h"]),
        {"h": ROWS % 3 / 3},
    ),
    "strange names": (
        lambda: plain(**{'"\\\n': X, "é😀": np.where(G == "a", "\u2028'", G), "": Z}),
        {'"\\\n': X, "é😀": np.where(G == "a", "\u2028'", G), "": Z},
    ),
    "unused levels": (
        lambda: plain(x=pa.array(X, mask=G == "c"), g=G),
        {"x": X, "g": G},
    ),
    "weights and offset": (
        lambda: streamlr.fit(
            {"y": Y, "x": X, "w": 1 + ROWS % 3, "o": Z / 10}, target="y", weights="w", offset="o"
        ),
        {"x": X, "o": Z / 10},
    ),
    "analytic": (
        lambda: streamlr.fit(
            {"y": Y, "x": X, "w": 0.1 + ROWS % 3}, target="y", weights="w", weight_type="analytic"
        ),
        {"x": X},
    ),
    "trials": (
        lambda: streamlr.fit({"y": Y, "x": X, "t": 1 + ROWS % 4}, target="y", trials="t"),
        {"x": X},
    ),
    "text outcome": (lambda: streamlr.fit({"class": np.where(Y == 1, "ja", "nein"), "x": X}), {"x": X}),
    "excluded": (lambda: plain(x=X, one=np.ones(N), when=ROWS.astype("M8[s]")), {"x": X}),
    "not converged": (not_converged, {"x": X, "z": Z}),
    "level of 90": (lambda: streamlr.fit({"y": Y, "x": X}, conf_level=0.9), {"x": X}),
}


@pytest.fixture(scope="module")
def models() -> Callable[[str], streamlr.Model]:
    made: dict[str, streamlr.Model] = {}

    def get(kind: str) -> streamlr.Model:
        if kind not in made:
            made[kind] = MODELS[kind][0]()
        return made[kind]

    return get


def bits(value: Any) -> Any:
    """A value in a form in which equal means equal to the bit, type included."""
    if isinstance(value, np.ndarray):
        return value.dtype.str, value.shape, value.tobytes()
    if isinstance(value, float):
        return "float", value.hex()
    if isinstance(value, dict):
        return {key: bits(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [bits(item) for item in value]
    return type(value).__name__, value


@pytest.mark.parametrize("kind", MODELS)
def test_round_trip(kind: str, models: Callable[[str], streamlr.Model], tmp_path: Path) -> None:
    model = models(kind)
    model.save(tmp_path / "model.json")
    again = streamlr.load(tmp_path / "model.json")
    assert again.terms == model.terms
    for name in ("params", "bse", "zvalues", "pvalues"):
        assert bits(getattr(again, name)) == bits(getattr(model, name)), name
    assert bits(again.cov_params()) == bits(model.cov_params())
    for level in (None, 0.5, 0.999):
        assert bits(again.conf_int(level)) == bits(model.conf_int(level))
    assert bits(again.result()) == bits(model.result())
    assert bits(again.glance()) == bits(model.glance())
    assert again.tidy().equals(model.tidy())
    assert str(again.summary()) == str(model.summary())
    assert again.summary()._repr_html_() == model.summary()._repr_html_()
    assert again.design == model.design
    assert bits([factor.levels for factor in again.design.categories]) == bits(
        [factor.levels for factor in model.design.categories]
    )
    data = MODELS[kind][1]
    scores = model.predict(data)
    assert np.isfinite(scores).any() or kind == "no rows"
    assert bits(again.predict(data)) == bits(scores)


@pytest.mark.parametrize("kind", MODELS)
def test_second_save_is_the_same_file(
    kind: str, models: Callable[[str], streamlr.Model], tmp_path: Path
) -> None:
    models(kind).save(tmp_path / "one.json")
    streamlr.load(tmp_path / "one.json").save(tmp_path / "two.json")
    assert (tmp_path / "one.json").read_bytes() == (tmp_path / "two.json").read_bytes()


def test_models_are_what_their_names_say(models: Callable[[str], streamlr.Model]) -> None:
    """Else the round trips above would prove less than they seem to."""
    assert len(models("aliased").aliased) == 1
    assert len(models("aliased levels").aliased) == 1
    assert models("set aside").separation is not None
    assert models("reduced").basis.reduced
    assert len(models("reduced").params) == 4
    assert models("unused levels").design.categories[0].unused == ("c",)
    assert not models("not converged").converged
    assert set(models("excluded").excluded) == {"one", "when"}
    assert [type(level) for level in models("whole levels").design.categories[0].levels] == [int, int]
    assert models("level of 90").conf_level == 0.9


def strictly(text: str) -> Any:
    def refuse(name: str) -> None:
        raise AssertionError(f"{name} is no JSON")

    return json.loads(text, parse_constant=refuse)


@pytest.mark.parametrize("kind", MODELS)
def test_strict_json_in_utf8(kind: str, models: Callable[[str], streamlr.Model], tmp_path: Path) -> None:
    models(kind).save(tmp_path / "model.json")
    content = strictly((tmp_path / "model.json").read_bytes().decode("utf-8"))
    assert content["format"] == "streamlr-model"
    assert content["version"] == 3


# What it holds


def test_no_value_of_a_row(tmp_path: Path) -> None:
    """Telling values in every role; of these only levels, and what they are called, may be in the file."""
    x = RNG.normal(size=N) * 1e3
    weight = 1 + ROWS % 2
    offset = np.round(Z, 3) / 7
    note = [f"secret {i % 50}" for i in ROWS]  # left out of the model
    data = {"y": Y, "x": x, "w": weight, "o": offset, "g": G, "note": note}
    model = streamlr.fit(data, target="y", weights="w", offset="o", exclude=["note"])
    model.save(tmp_path / "model.json")
    text = (tmp_path / "model.json").read_text()
    assert "secret" not in text
    for level in "abc":
        assert f'"{level}"' in text
    content = json.loads(text)
    numbers = {number for number in floats_of(content) if number not in (0.0, 1.0)}
    blob = base64.b64decode(content["basis"]["covariance"])
    numbers |= set(np.frombuffer(blob, "<f8").tolist())
    for values in (x, offset):
        assert not numbers & set(values.tolist())


def floats_of(value: Any) -> Iterator[float]:
    if isinstance(value, float):
        yield value
    elif isinstance(value, dict):
        for item in value.values():
            yield from floats_of(item)
    elif isinstance(value, list):
        for item in value:
            yield from floats_of(item)


def test_size_does_not_grow_with_the_rows(tmp_path: Path) -> None:
    sizes = []
    for times in (1, 50):
        data = {"y": np.tile(Y, times), "x": np.tile(X, times), "g": np.tile(G, times)}
        streamlr.fit(data, target="y").save(tmp_path / "model.json")
        sizes.append((tmp_path / "model.json").stat().st_size)
    assert abs(sizes[1] - sizes[0]) < 1_000


# What is no model


@pytest.fixture(scope="module")
def document(models: Callable[[str], streamlr.Model], tmp_path_factory: pytest.TempPathFactory) -> Any:
    path = tmp_path_factory.mktemp("document") / "model.json"
    models("set aside").save(path)
    return json.loads(path.read_text())


@pytest.fixture
def refused(tmp_path: Path) -> Callable[[bytes], str]:
    """refused(content) -> the message with which such a file is refused; it names the file."""

    def check(content: bytes) -> str:
        path = tmp_path / "suspect.json"
        path.write_bytes(content)
        with pytest.raises(StreamlrError) as caught:
            streamlr.load(path)
        assert str(path) in str(caught.value)
        return str(caught.value)

    return check


NOT_JSON = {
    "empty": b"",
    "blank": b" \n",
    "text": b"model",
    "half": b'{"format": "streamlr-model", "version": 3, "terms": [',
    "nul": b"\0" * 64,
    "latin 1": '{"format": "é"}'.encode("latin-1"),
    "utf 16": '{"format": "streamlr-model"}'.encode("utf-16"),
    "byte order mark": "\ufeff{}".encode(),
    "parquet": b"PAR1\x15\x04\x15\x10PAR1",
    "pickle": b"\x80\x04\x95\x0b\x00\x00\x00\x00\x00\x00\x00\x8c\x07version\x94.",
    "deep": b"[" * 200_000,
    "deep and closed": b"[" * 200_000 + b"]" * 200_000,
    "deep objects": b'{"a":' * 100_000 + b"1" + b"}" * 100_000,
    "deep inside": b'{"format":"streamlr-model","version":2,"terms":'
    + b"[" * 200_000
    + b"]" * 200_000
    + b"}",
    "huge integer": b'{"format": "streamlr-model", "version": ' + b"9" * 10_000 + b"}",
    "list": b"[1, 2]",
    "number": b"1",
    "null": b"null",
    "other object": b"{}",
    "other format": b'{"format": "other", "version": 3}',
    "format of another type": b'{"format": ["streamlr-model"], "version": 3}',
}


@pytest.mark.parametrize("kind", NOT_JSON)
def test_file_that_is_no_model(kind: str, refused: Callable[[bytes], str]) -> None:
    refused(NOT_JSON[kind])


@pytest.mark.parametrize("version", [0, 1, 2, 4, 99, "1", None, [1], -1, 1.5])
def test_other_versions(version: Any, document: Any, refused: Callable[[bytes], str]) -> None:
    message = refused(json.dumps({**document, "version": version}).encode())
    assert "format" in message
    assert str(version) in message


def test_cut_anywhere(document: Any, refused: Callable[[bytes], str]) -> None:
    whole = json.dumps(document).encode()
    for length in range(0, len(whole) - 1, 97):
        refused(whole[:length])


def places(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Every place in a document; of lists the first and the last item."""
    items: list[tuple[Any, Any]] = []
    if isinstance(value, dict):
        items = list(value.items())
    elif isinstance(value, list) and value:
        items = [(0, value[0])] + ([(len(value) - 1, value[-1])] if len(value) > 1 else [])
    for key, item in items:
        yield (*path, key)
        yield from places(item, (*path, key))


def use(model: streamlr.Model) -> None:
    """All that a model does."""
    str(model.summary())
    model.summary()._repr_html_()
    json.dumps(model.result(), allow_nan=False)
    model.tidy()
    model.conf_int(0.9)
    model.cov_params()
    model.predict(MODELS["set aside"][1])


WRONG: list[Any] = [
    None,
    "text",
    -1,
    7,
    0.5,
    math.nan,
    math.inf,
    10**400,
    True,
    [],
    {},
    [[1]],
    [None],
    {"a": 1},
]
DROP = object()


def changed(document: Any, path: tuple[Any, ...], value: Any) -> bytes | None:
    """The document with one place changed or taken out; None where that changes nothing."""
    copied = copy.deepcopy(document)
    inner = copied
    for key in path[:-1]:
        inner = inner[key]
    if value is DROP:
        del inner[path[-1]]
    elif type(inner[path[-1]]) is type(value) and inner[path[-1]] == value:
        return None
    else:
        inner[path[-1]] = value
    return json.dumps(copied).encode()


@pytest.mark.filterwarnings("ignore:.*encountered in:RuntimeWarning")  # of coefficients of 10**300
def test_anything_changed_is_refused_or_harmless(document: Any, tmp_path: Path) -> None:
    path = tmp_path / "edited.json"
    for number, place in enumerate(places(document)):
        for value in (DROP, *WRONG[number % 3 :: 3]):
            content = changed(document, place, value)
            if content is None:
                continue
            path.write_bytes(content)
            with contextlib.suppress(StreamlrError):
                use(streamlr.load(path))


@pytest.mark.parametrize(
    ("place", "value", "told"),
    [
        ("conf_level", 2, "conf_level cannot be 2"),
        ("statistics.nobs", math.nan, "NaN is no number of JSON"),
        ("statistics.log_likelihood", -1e308, "log_likelihood of statistics cannot be -1e+308"),
        ("statistics.newton_decrement", None, "newton_decrement of statistics is none"),
        ("statistics.rows_read", DROP, "rows_read is missing in statistics"),
        ("trace", [1], "trace cannot be"),
        ("provenance.origin", 3, "origin of provenance cannot be 3"),
        ("design.kinds", {}, "the kind of column 'x' is missing"),
        ("basis.scale", [0.0], "scale or stretch of basis holds a zero"),
    ],
)
def test_what_is_wrong_is_told(
    place: str, value: Any, told: str, document: Any, refused: Callable[[bytes], str]
) -> None:
    content = changed(document, tuple(place.split(".")), value)
    assert content is not None
    assert told in refused(content)


def test_what_a_function_has_learned_is_checked(tmp_path: Path, refused: Callable[[bytes], str]) -> None:
    streamlr.fit({"y": Y, "x": X}, "y ~ bs(x, df=4)").save(tmp_path / "spline.json")
    document = json.loads((tmp_path / "spline.json").read_text())
    for value in (DROP, "text", 0.5, {}):
        content = changed(document, ("design", "states", "bs(x, df=4)", "knots"), value)
        assert content is not None
        assert "is damaged" in refused(content)


@pytest.mark.parametrize("name", ["params", "std_errors", "basis.coef", "basis.centre", "basis.scale"])
@pytest.mark.parametrize("value", [math.nan, math.inf, None, "1", True])
def test_numbers_that_are_none(name: str, value: Any, document: Any, refused: Callable[[bytes], str]) -> None:
    content = changed(document, (*name.split("."), 0), value)
    assert content is not None
    refused(content)


@pytest.mark.parametrize("name", ["params", "std_errors", "basis.coef", "basis.centre", "basis.active"])
@pytest.mark.parametrize("change", ["shorter", "longer"])
def test_lists_of_another_length(
    name: str, change: str, document: Any, refused: Callable[[bytes], str]
) -> None:
    inner = document
    for key in name.split("."):
        inner = inner[key]
    content = changed(
        document, tuple(name.split(".")), inner[:-1] if change == "shorter" else [*inner, inner[-1]]
    )
    assert content is not None
    refused(content)


@pytest.mark.parametrize("text", ["", "AAAA", "not base64!", "é", "AAAAAAAAAAA="])
def test_covariance_that_is_none(text: str, document: Any, refused: Callable[[bytes], str]) -> None:
    content = changed(document, ("basis", "covariance"), text)
    assert content is not None
    refused(content)


def test_covariance_of_nan(document: Any, refused: Callable[[bytes], str]) -> None:
    blob = bytearray(base64.b64decode(document["basis"]["covariance"]))
    blob[:8] = np.array([np.nan]).tobytes()
    content = changed(document, ("basis", "covariance"), base64.b64encode(bytes(blob)).decode())
    assert content is not None
    refused(content)


def test_a_column_twice(document: Any, refused: Callable[[bytes], str]) -> None:
    copied = copy.deepcopy(document)
    copied["design"]["terms"].append(copied["design"]["terms"][0])
    refused(json.dumps(copied).encode())


def test_path_that_cannot_be_read(tmp_path: Path) -> None:
    for path in (tmp_path / "absent.json", tmp_path, tmp_path / "absent" / "model.json"):
        with pytest.raises(StreamlrError) as caught:
            streamlr.load(path)
        assert str(path) in str(caught.value)


# Written whole or not at all


def failing(*_: Any, **__: Any) -> Any:
    raise OSError(28, "No space left on device")


@pytest.mark.parametrize("step", ["os.replace", "os.fsync", "tempfile.mkstemp", "json.dumps"])
def test_failure_leaves_the_old_file_and_nothing_else(
    step: str, models: Callable[[str], streamlr.Model], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "model.json"
    models("numbers").save(path)
    before = path.read_bytes()
    with monkeypatch.context() as patched:
        patched.setattr(step, failing)
        with pytest.raises((StreamlrError, OSError)) as caught:
            models("truth").save(path)
    if step != "json.dumps":
        assert isinstance(caught.value, StreamlrError)
        assert str(path) in str(caught.value)
        assert "No space left" in str(caught.value)
    assert path.read_bytes() == before
    assert os.listdir(tmp_path) == ["model.json"]
    models("truth").save(path)
    assert path.read_bytes() != before
    assert os.listdir(tmp_path) == ["model.json"]


@pytest.mark.parametrize("error", [KeyboardInterrupt, MemoryError])
def test_interrupt_leaves_the_old_file_and_nothing_else(
    error: type[BaseException],
    models: Callable[[str], streamlr.Model],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    path = tmp_path / "model.json"
    models("numbers").save(path)
    before = path.read_bytes()

    def interrupted(*_: Any) -> None:
        raise error

    with monkeypatch.context() as patched:
        patched.setattr(os, "replace", interrupted)
        with pytest.raises(error):
            models("truth").save(path)
    assert path.read_bytes() == before
    assert os.listdir(tmp_path) == ["model.json"]


def test_a_full_disk_while_writing(models: Callable[[str], streamlr.Model], tmp_path: Path) -> None:
    """A limit on the size of files stands for the full disk."""
    resource = pytest.importorskip("resource")
    import signal

    path = tmp_path / "model.json"
    models("numbers").save(path)
    before = path.read_bytes()
    old = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (512, old[1]))
        with pytest.raises(StreamlrError) as caught:
            models("truth").save(path)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, old)
        signal.signal(signal.SIGXFSZ, handler)
    assert str(path) in str(caught.value)
    assert path.read_bytes() == before
    assert os.listdir(tmp_path) == ["model.json"]


def test_folder_that_does_not_exist(models: Callable[[str], streamlr.Model], tmp_path: Path) -> None:
    with pytest.raises(StreamlrError, match="absent"):
        models("numbers").save(tmp_path / "absent" / "model.json")
    with pytest.raises(StreamlrError, match="folder"):
        models("numbers").save(tmp_path)
    assert os.listdir(tmp_path) == []


def test_permissions_are_those_of_any_new_file(
    models: Callable[[str], streamlr.Model], tmp_path: Path
) -> None:
    old = os.umask(0o027)
    try:
        models("numbers").save(tmp_path / "model.json")
    finally:
        os.umask(old)
    assert stat.S_IMODE((tmp_path / "model.json").stat().st_mode) == 0o640


def test_what_is_no_regular_file_is_never_replaced(
    models: Callable[[str], streamlr.Model], tmp_path: Path
) -> None:
    """A pipe (or a device such as a terminal) given as output must still be one afterwards."""
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    # A reader, so that writing into the pipe, if that is what is done, does not wait for one.
    reader = os.open(pipe, os.O_RDONLY | os.O_NONBLOCK)
    try:
        try:
            models("numbers").save(pipe)
        except StreamlrError as error:
            assert str(pipe) in str(error)
        assert stat.S_ISFIFO(pipe.stat().st_mode)
    finally:
        os.close(reader)
    assert os.listdir(tmp_path) == ["pipe"]


def test_link_is_followed(models: Callable[[str], streamlr.Model], tmp_path: Path) -> None:
    """The file it points to is replaced, as any program that opens it for writing would do."""
    (tmp_path / "inner").mkdir()
    target = tmp_path / "inner" / "model.json"
    target.write_text("old")
    link = tmp_path / "link.json"
    link.symlink_to(target)
    models("numbers").save(link)
    assert link.is_symlink()
    assert streamlr.load(target).terms == models("numbers").terms
    assert os.listdir(tmp_path / "inner") == ["model.json"]


def test_loading_imports_no_pickle_and_runs_no_code(document: Any) -> None:
    source = Path(model_file.__file__).read_text()
    for word in ("pickle", "eval(", "exec(", "import_module"):
        assert word not in source
