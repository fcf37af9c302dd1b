"""The pack as a whole: who may import whom, and that its lists of packages and requirements agree."""

import ast
import re
import stat
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
import yaml
from PIL import Image

from likeness_portraits.tests import draw_icon

if sys.version_info >= (3, 11):
    import tomllib
else:
    tomllib = pytest.importorskip("tomli")

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = "likeness_portraits"

# Who may import whom: the longest matching prefix decides. Every module may import its own package.
BASICS = {
    "engine.errors",
    "engine.files",
    "engine.devices",
    "engine.telemetry",
    "engine.version",
    "engine.config",
    "engine.artifact",
    "engine.staged",
}
MIDDLE = BASICS | {"engine.data", "engine.miniature"}
BASED = MIDDLE | {"engine.bases", "engine.identity"}
ALL_BUT_COMFY = BASED | {"engine.training", "engine.inference", "engine.evaluation"}
MAY_IMPORT: dict[str, set[str]] = {
    "": {"nodes"},
    "engine.errors": set(),
    "engine.devices": set(),
    "engine.files": {"engine.errors"},
    "engine.telemetry": set(),
    "engine.version": set(),
    "engine.config": {"engine.errors", "engine.files", "engine.staged.stages"},
    "engine.artifact": BASICS | {"engine.bases.families"},  # a file names its base
    "engine.staged": BASICS | {"engine.bases"},
    "engine.data": MIDDLE,
    "engine.data.shard_sources": MIDDLE | {"engine.identity.references"},
    "engine.miniature": MIDDLE,
    "engine.miniature.networks": MIDDLE | {"engine.bases.text.clip_weights"},
    "engine.miniature.making.id_adapter": BASED | {"engine.training"},  # made as a user would make one
    "engine.miniature.making.text16": MIDDLE | {"engine.bases.text.qwen"},
    "engine.miniature.making.transformer16": MIDDLE
    | {"engine.bases.conditioning", "engine.bases.denoisers.flux2_transformer", "engine.bases.process.flow"},
    "engine.miniature.make": MIDDLE | {"engine.bench"},  # the maker prints the scores of what it made
    "engine.bases": MIDDLE,
    "engine.identity": BASED,
    "engine.training": BASED,
    "engine.training.launch": BASED | {"engine.training", "engine.job_file"},  # also a program
    "engine.inference": BASED,
    "engine.comfy_bridge": BASED | {"engine.inference"},
    "engine.evaluation": ALL_BUT_COMFY,
    "engine.console": {"engine.errors", "engine.files", "engine.training"},
    "engine.job_file": MIDDLE,
    "engine.doctor": {"engine.telemetry", "engine.version"},
    "engine.demo": ALL_BUT_COMFY | {"engine.console"},
    "engine.bench": ALL_BUT_COMFY | {"engine.console", "engine.demo"},
    "engine.cli": {
        "engine.commands",
        "engine.console",
        "engine.errors",
        "engine.telemetry",
        "engine.version",
    },
    "engine.commands": ALL_BUT_COMFY
    | {"engine.bench", "engine.console", "engine.demo", "engine.doctor", "engine.job_file"},
    "nodes": ALL_BUT_COMFY | {"engine.comfy_bridge"},
}

# Third-party packages that only some parts may import.
ONLY_IN: dict[str, set[str]] = {
    "comfy": {"engine.comfy_bridge"},
    "comfy_extras": set(),
    "folder_paths": {"engine.comfy_bridge"},
    "nodes": set(),  # ComfyUI's own nodes.py
    "comfy_api": {"nodes"},
    "diffusers": {
        "engine.bases",
        "engine.training",
        "engine.bench.plain_loops",
        "engine.miniature.make",
        "engine.miniature.making",
    },
    "peft": {
        "engine.training",
        "engine.bench.plain_loops",
        "engine.miniature.make",
        "engine.miniature.making",
    },
    "accelerate": {
        "engine.training",
        "engine.bench.plain_loops",
        "engine.miniature.make",
        "engine.miniature.making",
    },
    "insightface": {"engine.data.faces"},
    "typer": {"engine.cli", "engine.commands"},
}

# What nodes may import while ComfyUI starts; all else waits until a node runs.
LIGHT = {"engine.errors", "engine.config", "nodes"}


class Import(NamedTuple):
    target: str  # dotted, without the package's name for our own modules
    ours: bool
    line: int
    at_start: bool  # runs when the module is imported


def sources() -> list[Path]:
    found = [ROOT / "__init__.py"] if (ROOT / "__init__.py").exists() else []
    return found + sorted(path for top in ("engine", "nodes") for path in (ROOT / top).rglob("*.py"))


def module_name(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def inside(module: str, prefix: str) -> bool:
    return module == prefix or module.startswith(prefix + ".")


def for_type_checkers(node: ast.AST) -> bool:
    return isinstance(node, ast.If) and "TYPE_CHECKING" in ast.dump(node.test)


def walk(node: ast.AST, at_start: bool = True) -> Iterator[tuple[ast.AST, bool]]:
    for child in ast.iter_child_nodes(node):
        if for_type_checkers(child):
            continue
        deeper = at_start and not isinstance(child, (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda))
        yield child, at_start
        yield from walk(child, deeper)


def resolve(path: Path, node: ast.ImportFrom) -> list[str]:
    """The own modules that a relative import reaches."""
    package = module_name(path).split(".") + ([""] if path.name == "__init__.py" else [])
    base = [part for part in package[: len(package) - node.level] if part]
    base += node.module.split(".") if node.module else []
    targets = []
    for alias in node.names:
        candidate = ROOT.joinpath(*base, alias.name)
        is_module = candidate.with_suffix(".py").exists() or (candidate / "__init__.py").exists()
        targets.append(".".join([*base, alias.name] if is_module else base))
    return targets


@cache
def imports(path: Path) -> tuple[Import, ...]:
    found = []
    for node, at_start in walk(ast.parse(path.read_text("utf-8"), str(path))):
        if isinstance(node, ast.Import):
            found += [Import(alias.name, False, node.lineno, at_start) for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.level == 0:
            found.append(Import(node.module or "", False, node.lineno, at_start))
        elif isinstance(node, ast.ImportFrom):
            found += [Import(target, True, node.lineno, at_start) for target in resolve(path, node)]
    return tuple(found)


def rule_for(module: str) -> str:
    rules = [rule for rule in MAY_IMPORT if rule and inside(module, rule)]
    return max(rules, key=len, default="")


def test_modules_import_only_what_the_table_allows():
    wrong = []
    for path in sources():
        rule = rule_for(module_name(path))
        for found in imports(path):
            # `engine` itself holds nothing, so importing from it reaches nothing
            allowed = not found.ours or found.target == "engine" or inside(found.target, rule) and rule != ""
            allowed = allowed or any(inside(found.target, prefix) for prefix in MAY_IMPORT[rule])
            if not allowed:
                wrong.append(f"{path.relative_to(ROOT)}:{found.line} imports {found.target}")
    assert wrong == []


def test_no_method_imports_another():
    """What two of them need is a part beside them, or a class that is no method itself."""
    from likeness_portraits.engine.training.methods import CLASSES

    folder = ROOT / "engine" / "training" / "methods"
    methods = {f"engine.training.methods.{module}" for module, _ in CLASSES.values()}
    wrong = [
        f"{path.name}:{found.line} imports {found.target}"
        for path in sorted(folder.glob("*.py"))
        for found in imports(path)
        if found.target in methods - {module_name(path)}
    ]
    assert wrong == []


def test_every_engine_module_has_a_rule():
    assert [
        path
        for path in sources()
        if path.parent != ROOT and not rule_for(module_name(path)) and path != ROOT / "engine" / "__init__.py"
    ] == []


def test_restricted_libraries_stay_where_they_belong():
    wrong = []
    for path in sources():
        for found in imports(path):
            owners = None if found.ours else ONLY_IN.get(found.target.split(".")[0])
            if owners is not None and not any(inside(module_name(path), owner) for owner in owners):
                wrong.append(f"{path.relative_to(ROOT)}:{found.line} imports {found.target}")
    assert wrong == []


def test_own_modules_are_imported_relatively():
    wrong = [
        f"{path.relative_to(ROOT)}:{found.line}"
        for path in sources()
        for found in imports(path)
        if not found.ours and found.target.split(".")[0] in {PACKAGE, "engine", "nodes"}
    ]
    assert wrong == []


def test_starting_comfyui_loads_no_training_code():
    heavy = {"diffusers", "peft", "transformers", "accelerate"}
    wrong = []
    for path in sources():
        name = module_name(path)
        if name and not inside(name, "nodes"):
            continue
        for found in imports(path):
            light = any(inside(found.target, prefix) for prefix in LIGHT)
            if found.at_start and (not light if found.ours else found.target.split(".")[0] in heavy):
                wrong.append(f"{path.relative_to(ROOT)}:{found.line} imports {found.target}")
    assert wrong == []


@cache
def names_in(path: Path) -> set[str]:
    """What a module defines or imports, at whatever depth."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            found.add(node.name)
        elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            found.add(node.id)
        elif isinstance(node, ast.Import | ast.ImportFrom):
            found |= {(alias.asname or alias.name).split(".")[0] for alias in node.names}
    return found


def test_what_is_imported_from_own_modules_is_there():
    """Nodes import when they run, and only in ComfyUI: a name that moved away would not be missed before."""
    missing = []
    for path in sources():
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            if not isinstance(node, ast.ImportFrom) or not node.level:
                continue
            for alias, target in zip(node.names, resolve(path, node)):
                place = ROOT.joinpath(*target.split("."))
                file = (
                    place.with_suffix(".py") if place.with_suffix(".py").exists() else place / "__init__.py"
                )
                whole = target.split(".")[-1] == alias.name and file.exists()
                if not whole and not (file.exists() and alias.name in names_in(file)):
                    missing.append(f"{path.relative_to(ROOT)}:{node.lineno} {target} has no {alias.name}")
    assert missing == []


def test_imports_form_no_cycle():
    graph = {module_name(path): {found.target for found in imports(path) if found.ours} for path in sources()}
    done: set[str] = set()

    def visit(module: str, trail: tuple[str, ...]) -> None:
        assert module not in trail, " -> ".join([*trail[trail.index(module) :], module])
        if module not in done:
            for target in sorted(graph.get(module, set()) - {module}):
                visit(target, (*trail, module))
            done.add(module)

    for module in sorted(graph):
        visit(module, ())


@cache
def project() -> dict:
    return tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))


def test_requirements_equal_the_base_dependencies():
    lines = [line.strip() for line in (ROOT / "requirements.txt").read_text("utf-8").splitlines()]
    wanted = [line for line in lines if line and not line.startswith("#")]
    assert wanted == project()["project"]["dependencies"]


def test_package_list_is_complete():
    tops = [folder for folder in (ROOT / "engine", ROOT / "nodes") if folder.exists()]
    found = {module_name(path) for top in tops for path in top.rglob("__init__.py")}
    expected = {PACKAGE} | {f"{PACKAGE}.{name}" for name in found}
    assert set(project()["tool"]["setuptools"]["packages"]) == expected


def test_every_folder_with_modules_is_a_package():
    folders = {path.parent for path in sources()}
    assert [str(folder) for folder in folders if not (folder / "__init__.py").exists()] == []


def test_every_file_that_is_no_code_is_installed_too():
    """Weights, tokenizer, workflows, help pages and translations, by setuptools' patterns."""
    patterns = project()["tool"]["setuptools"]["package-data"]
    installed: set[Path] = set()
    for package, globs in patterns.items():
        folder = ROOT.joinpath(*package.split(".")[1:])
        installed |= {path for pattern in globs for path in folder.glob(pattern) if path.is_file()}
    wanted = {
        path
        # workflows/ and subgraphs/ are where ComfyUI looks for templates and for blueprints
        for top in ("engine", "nodes", "web", "workflows", "subgraphs", "locales")
        for path in (ROOT / top).rglob("*")
        if path.is_file() and path.suffix not in (".py", ".pyc") and not path.name.startswith(".")
    }
    assert wanted - installed == set()


def test_console_command_names_a_function_that_exists():
    target, _, function = project()["project"]["scripts"]["likeness"].partition(":")
    path = ROOT.joinpath(*target.split(".")[1:]).with_suffix(".py")
    assert f"def {function}(" in path.read_text("utf-8")


def pip_name(requirement: str) -> str:
    return re.split(r"[<>=!~;\[ ]", requirement, maxsplit=1)[0].lower().replace("_", "-")


def test_constraints_pin_every_dependency_exactly_and_name_no_machine():
    lines = (ROOT / "constraints.txt").read_text("utf-8").splitlines()
    lines = [line for line in lines if line and not line.startswith("#")]
    assert [line for line in lines if not re.fullmatch(r"[A-Za-z0-9._-]+==[0-9][A-Za-z0-9.]*", line)] == []
    pinned = {pip_name(line) for line in lines}
    metadata = project()["project"]
    wanted = {pip_name(line) for line in metadata["dependencies"] + metadata["optional-dependencies"]["test"]}
    assert wanted - pinned == set()
    assert "torch==2.13.0" in lines


def readme_commands() -> list[str]:
    """The fenced lines that begin with `pip install`."""
    commands, fenced = [], False
    for line in (ROOT / "README.md").read_text("utf-8").splitlines():
        if line.startswith("```"):
            fenced = not fenced
        elif fenced and re.match(r"[$ ]*pip install", line):
            commands.append(line.lstrip("$ "))
    return commands


def test_readme_begins_with_the_demo_and_the_tests():
    assert readme_commands()[:2] == [
        "pip install -c constraints.txt . && likeness demo",
        'pip install -c constraints.txt ".[test]" && pytest -n 2 --dist loadfile',
    ]
    first_screen = (ROOT / "README.md").read_text("utf-8").splitlines()[:40]
    assert sum("pip install" in line for line in first_screen) == 2


def test_every_method_stands_in_the_readme_and_every_command_on_its_page():
    settings = ast.parse((ROOT / "engine" / "config" / "methods.py").read_text("utf-8"))
    methods = next(node.value for node in settings.body if getattr(node, "target", None) is not None
                   and getattr(node.target, "id", "") == "METHODS")  # fmt: skip
    commands = re.findall(
        r'^@app\.command\((?:"([\w-]+)")?\)\n(?:@\w+\n)*def (\w+)',
        "".join(path.read_text("utf-8") for path in sorted((ROOT / "engine" / "commands").glob("*.py"))),
        re.MULTILINE,
    )
    readme = (ROOT / "README.md").read_text("utf-8")
    page = (ROOT / "docs" / "command-line.md").read_text("utf-8")
    assert [key.value for key in methods.keys if f"`{key.value}`" not in readme] == []
    assert commands and [name or function for name, function in commands
                         if f"`{name or function}`" not in page] == []  # fmt: skip


def test_ci_runs_the_very_test_command_of_the_readme():
    script = ROOT / ".ci" / "run"
    assert script.stat().st_mode & stat.S_IXUSR
    assert readme_commands()[1] in script.read_text("utf-8").splitlines()


def test_version_is_the_same_everywhere():
    version = project()["project"]["version"]
    assert f'VERSION = "{version}"' in (ROOT / "engine" / "version.py").read_text("utf-8")
    assert f"## {version}" in (ROOT / "CHANGELOG.md").read_text("utf-8")


def test_comfy_registry_metadata_is_there():
    comfy = project()["tool"]["comfy"]
    assert comfy["DisplayName"] == "Likeness" and comfy["PublisherId"]
    assert comfy["requires-comfyui"] == ">=0.3.64"
    assert "comfyui" not in project()["project"]["name"].lower()


def test_few_public_names_are_defined_twice():
    """Functions, classes and constants of engine and nodes: who greps a name finds one thing. What may be
    there twice are entry points (main, load), the loggers, and a command and what it calls."""
    where: dict[str, set[str]] = {}
    for path in sources():
        for node in ast.parse(path.read_text("utf-8")).body:
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
                names = [node.name]
            elif isinstance(node, ast.Assign | ast.AnnAssign):
                goals = node.targets if isinstance(node, ast.Assign) else [node.target]
                names = [name.id for goal in goals for name in ast.walk(goal) if isinstance(name, ast.Name)]
            else:
                continue
            for name in names:
                if not name.startswith("_"):
                    where.setdefault(name, set()).add(module_name(path))
    twice = {name: sorted(modules) for name, modules in where.items() if len(modules) > 1}
    assert len(twice) <= 10, twice


# They say how a value came to be here, and not what it holds.
SAY_NOTHING = {"found", "own", "told", "known", "chosen", "wanted"}


def locals_in(tree: ast.Module) -> Iterator[tuple[str, int]]:
    """Variables and parameters, but for fields of classes and the inputs of nodes, which files know."""
    kept = {
        id(target)
        for owner in ast.walk(tree)
        if isinstance(owner, ast.ClassDef)
        for field in owner.body
        for target in ast.walk(getattr(field, "target", None) or ast.Pass())
    }
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef) and node.name in ("execute", "validate_inputs"):
            kept |= {id(argument) for argument in ast.walk(node.args)}
    for node in ast.walk(tree):
        if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store) and id(node) not in kept:
            yield node.id, node.lineno
        elif isinstance(node, ast.arg) and id(node) not in kept:
            yield node.arg, node.lineno
        elif isinstance(node, ast.ExceptHandler | ast.MatchAs | ast.MatchStar) and node.name:
            yield node.name, node.lineno


def test_variables_say_what_they_hold():
    vague = [
        f"{path.relative_to(ROOT)}:{line} {name}"
        for path in sources()
        for name, line in locals_in(ast.parse(path.read_text("utf-8")))
        if name in SAY_NOTHING
    ]
    assert vague == [], "name what they hold instead"


# Words that only a U-Net with CLIP and predicted noise has. Not among them: names of settings and of groups
# of weights that stand in job files (`unet_learning_rate`), and layers as users write them after --layers.
OF_ONE_KIND = re.compile(
    r"\bunet\b|UNet|\bclip_[lgh]\b|CLIPText|v_prediction|alphas_cumprod|\battn[12]\b|down_blocks|up_blocks|mid_block"
)
AS_USERS_WRITE = re.compile(r"up_blocks\.1=1\.3|mid_block=0|up_blocks=32|mid_block=8:4")
MAY_KNOW_ONE_KIND = {
    *(
        f"engine.artifact.{name}"
        for name in ("concept_file", "other_tools", "cloneofsimo", "lora_layouts", "lora")
    ),
    "engine.identity.files",  # other tools' files number layers in a U-Net's order
    "engine.staged.embedding",  # PersonaMagic's files name no encoder
    *(f"engine.comfy_bridge.{name}" for name in ("miniature", "attention", "weights")),  # ComfyUI's names
    "engine.config.specs",  # what may be predicted, as diffusers' files spell it
    *(
        f"engine.training.methods.{name}" for name in ("magicapture", "magictailor", "baselines")
    ),  # a group's name
}


def test_few_modules_know_one_kind_of_base():
    """Outside bases, the Miniature and the benches, which are of one base, as the table says."""
    own = ("engine.bases", "engine.miniature", "engine.bench")
    knowing = {
        module_name(path)
        for path in sources()
        if not any(inside(module_name(path), part) for part in own)
        and OF_ONE_KIND.search(AS_USERS_WRITE.sub("", path.read_text("utf-8")))
    }
    assert knowing == MAY_KNOW_ONE_KIND and len(knowing) <= 14


def test_icon_and_banner_are_here_in_the_registrys_shapes_and_drawn_by_our_script():
    comfy = project()["tool"]["comfy"]
    repository = project()["project"]["urls"]["Repository"].removeprefix("https://github.com/")
    raw = f"https://raw.githubusercontent.com/{repository}/main/"
    icon, banner = (ROOT / comfy[name].removeprefix(raw) for name in ("Icon", "Banner"))
    with Image.open(icon) as drawn:
        assert drawn.width == drawn.height >= 400
        expected = draw_icon.icon().convert("RGB").resize((64, 64))
        assert _difference(drawn.convert("RGBA").convert("RGB").resize((64, 64)), expected) < 4  # 128 colours
    with Image.open(banner) as drawn:
        assert drawn.width * 9 == drawn.height * 21
        assert _difference(drawn.resize((168, 72)), draw_icon.banner().resize((168, 72))) < 4


def _difference(one: Image.Image, other: Image.Image) -> float:
    return float(np.abs(np.asarray(one, dtype=float) - np.asarray(other, dtype=float)).mean())


def test_a_tag_publishes_and_no_fork_does():
    told = yaml.safe_load((ROOT / ".github" / "workflows" / "publish.yml").read_text("utf-8"))
    assert told[True] == {"workflow_dispatch": None, "push": {"tags": ["v*"]}}  # YAML 1.1 takes on for yes
    job = told["jobs"]["publish"]
    assert "fork == false" in job["if"] and told["permissions"] == {"contents": "read"}
    (sent,) = [step for step in job["steps"] if "publish-node-action" in step.get("uses", "")]
    assert sent["with"] == {"personal_access_token": "${{ secrets.REGISTRY_ACCESS_TOKEN }}"}
    assert ".github/" in (ROOT / ".comfyignore").read_text("utf-8").splitlines()


def test_no_function_is_longer_than_60_lines():
    """But for nodes' schemas, which are tables."""
    long = [
        f"{path.relative_to(ROOT)}:{node.lineno} {node.name}"
        for path in sources()
        for node in ast.walk(ast.parse(path.read_text("utf-8")))
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and node.name != "define_schema"
        and (node.end_lineno or 0) - node.lineno + 1 > 60
    ]  # fmt: skip
    assert long == []
