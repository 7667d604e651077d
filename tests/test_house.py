"""The floors: imports run downwards only, and no file grows past one idea."""

import ast
import pathlib

import pytest

ROOT = pathlib.Path(__file__).resolve().parent.parent
# Longest prefix wins. A module may import what lies on a lower floor, and its own package.
FLOORS = {
    "errors": 0,
    "model.batch": 0,
    "model.placement": 0,
    "configs": 0,
    "model.attention": 1,
    "model.distances": 1,
    "model.positions": 1,
    "model.layers": 1,
    "model.splash": 1,
    "model.flash": 1,
    "model.losses": 1,
    "model.transformer": 2,
    "model.stack": 2,
    "model.lsh": 2,
    "model.reversible": 2,
    "model.heads": 3,
    "model": 3,
    "model.networks": 4,
    "model.objectives": 5,
    "data_pipeline": 1,
    "data_pipeline.knowledge": 2,
    "data_pipeline.tasks": 3,
    "data_pipeline.pipeline": 2,
    "data_pipeline.loader": 3,
    "data_pipeline.shapes": 3,
    "training": 6,
    "evaluation": 7,
    "scripts": 8,
    "train": 8,
}
SAME_FLOOR = {
    "model.attention": {"model.flash", "model.layers", "model.splash"},
    "model.ernie": {"model.encoder"},
    "model.flash": {"model.layers"},
    "model.positions": {"model.layers"},
    "model.stack": {"model.transformer"},
}
FILES = [
    path
    for path in sorted(ROOT.rglob("*.py"))
    if not {"tests", "build"} & set(path.relative_to(ROOT).parts)
    and not any(part.startswith(".") for part in path.relative_to(ROOT).parts)
]


def module_name(path: pathlib.Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def floor(name: str) -> int | None:
    while name:
        if name in FLOORS:
            return FLOORS[name]
        name = name.rpartition(".")[0]
    return None


def imported(path: pathlib.Path) -> set[str]:
    names = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            names |= {f"{node.module}.{alias.name}" for alias in node.names}
    return names


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(ROOT)))
def test_imports_run_downwards(path):
    me = module_name(path)
    package = me if path.name == "__init__.py" else me.rpartition(".")[0]
    assert floor(me) is not None, f"{me} stands on no floor: add it to FLOORS"
    for name in imported(path):
        if floor(name) is None:
            continue
        if me.startswith("scripts"):
            assert not name.startswith(("scripts", "train.")), f"{me} imports the script {name}"
        inside = name.startswith(f"{package}.") and package not in ("model", "scripts", "")
        if inside or name in SAME_FLOOR.get(me, ()):
            continue
        assert floor(name) < floor(me), f"{me} imports {name}, which is not below it"


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(ROOT)))
def test_wings_and_length(path):
    me, names = module_name(path), imported(path)
    if me.startswith("configs") or (
        me.startswith("data_pipeline") and me != "data_pipeline.loader"
    ):
        heavy = {"jax", "flax", "optax", "orbax"}
        assert not heavy & {n.partition(".")[0] for n in names}, f"{me} must not need JAX"
    if me.startswith("data_pipeline"):
        used = {n for n in names if n.startswith("model")}
        assert used <= {"model.batch"} | {f"model.batch.{x}" for x in ("FIELDS", "check")}, used
    assert "flax.nnx" not in names
    assert len(path.read_text().splitlines()) <= 420, f"{path.name}: split it"


# What a file that is loaded could run code by.
CODE = {"pickle", "cloudpickle", "dill", "marshal", "shelve", "joblib"}
ARCHIVES = {"tarfile", "zipfile"}  # members may be named ../../x


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(ROOT)))
def test_nothing_that_is_loaded_can_run_code(path):
    used = {name.partition(".")[0] for name in imported(path)}
    assert not used & (CODE | ARCHIVES), used
    for node in ast.walk(ast.parse(path.read_text())):
        if not isinstance(node, ast.Call):
            continue
        called = ast.unparse(node.func)
        assert called not in ("eval", "exec", "compile", "__import__"), called
        assert called not in ("torch.load", "yaml.load", "shutil.unpack_archive"), called
        keywords = {k.arg: ast.unparse(k.value) for k in node.keywords}
        assert keywords.get("allow_pickle", "False") == "False", called
        assert keywords.get("trust_remote_code", "False") == "False", called
        assert keywords.get("shell", "False") == "False", called
