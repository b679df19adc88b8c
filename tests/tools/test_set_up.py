"""What set-up decides: which package is missing, when to do nothing, what a cached build is valid for."""

from __future__ import annotations

from pathlib import Path

import pytest

import cluster_programs
import deepspeed_wheel
import generate
import go_build
import set_up

THERE = {"g++": True, "make": True}


@pytest.mark.parametrize(
    ("header", "ensurepip", "commands", "missing"),
    [
        (True, True, THERE, []),
        (False, True, THERE, ["python3-dev"]),
        (True, False, THERE | {"g++": False}, ["g++", "python3-venv"]),
        (False, False, {"g++": False, "make": False}, ["g++", "make", "python3-dev", "python3-venv"]),
    ],
)
def test_missing_debian_packages_are_named(
    header: bool, ensurepip: bool, commands: dict[str, bool], missing: list[str]
) -> None:
    assert set_up.missing_packages(header, ensurepip, commands) == missing


def repository(folder: Path) -> Path:
    (folder / "pyproject.toml").write_text("[project]\n")
    (folder / "constraints.txt").write_text("deepspeed==0.19.8\nuv==0.13.9\n")
    return folder


def test_set_up_is_current_until_an_input_changes(tmp_path: Path) -> None:
    root = repository(tmp_path)
    before = set_up.fingerprint(root, ["3.11", "cpu"])
    assert set_up.fingerprint(root, ["3.11", "cpu"]) == before
    assert set_up.fingerprint(root, ["3.11", "cuda"]) != before
    (root / "constraints.txt").write_text("deepspeed==0.19.9\nuv==0.13.9\n")
    assert set_up.fingerprint(root, ["3.11", "cpu"]) != before


def test_a_pin_is_found_by_its_whole_name() -> None:
    assert set_up.pinned("xuv==1\nuv==0.13.9 ; sys_platform == 'linux'\nuv-x==2\n", "uv") == "0.13.9"
    with pytest.raises(LookupError, match="make constraints"):
        set_up.pinned("uvicorn==1\n", "uv")


def test_ops_are_built_for_what_the_machine_can_compile() -> None:
    assert deepspeed_wheel.ops_to_build("cpu", has_nvcc=False) == ("SHM_COMM", "CPU_ADAM", "FUSED_ADAM")
    assert deepspeed_wheel.ops_to_build("cuda", has_nvcc=True) == ("CPU_ADAM", "FUSED_ADAM")
    assert deepspeed_wheel.ops_to_build("cuda", has_nvcc=False) == ()


@pytest.mark.parametrize(("cores", "memory_gib", "compilers"), [(2, 23.0, 2), (64, 16.0, 8), (8, 1.0, 1)])
def test_compilers_fit_into_memory(cores: int, memory_gib: float, compilers: int) -> None:
    assert deepspeed_wheel.parallel_compilers(cores, memory_gib) == compilers


def test_a_wheel_is_not_reused_for_another_torch_cpu_or_accelerator() -> None:
    facts: dict[str, object] = {"deepspeed": "0.19.8", "torch": "2.15.0", "cpu": "avx2", "accelerator": "cpu"}
    others = [facts | {"torch": "2.15.1"}, facts | {"cpu": "avx512f"}, facts | {"accelerator": "cuda"}]
    keys = {deepspeed_wheel.wheel_key(each) for each in [facts, *others]}
    assert len(keys) == 4
    assert deepspeed_wheel.wheel_key(dict(reversed(facts.items()))) == deepspeed_wheel.wheel_key(facts)


def test_the_build_gets_its_ops_accelerator_and_parallelism(tmp_path: Path) -> None:
    environment = deepspeed_wheel.build_environment("cpu", ("CPU_ADAM",), tmp_path)
    assert (environment["DS_ACCELERATOR"], environment["DS_BUILD_CPU_ADAM"]) == ("cpu", "1")
    assert "parallel" in Path(environment["DIST_EXTRA_CONFIG"]).read_text()


def test_a_go_program_is_rebuilt_when_its_source_or_modules_change(tmp_path: Path) -> None:
    (tmp_path / "go.mod").write_text("module x\n\ngo 1.25.0\n")
    (tmp_path / "main.go").write_text("package main\n")
    before = go_build.source_key(tmp_path)
    (tmp_path / "README").write_text("not part of the program")
    assert go_build.source_key(tmp_path) == before
    (tmp_path / "main.go").write_text("package main // changed\n")
    assert go_build.source_key(tmp_path) != before


def test_a_go_tool_is_rebuilt_when_its_module_or_what_is_defined_in_it_changes(tmp_path: Path) -> None:
    (tmp_path / "go.mod").write_text("module x\n\ngo 1.26.0\n")
    before = go_build.source_key(tmp_path, "cmd/a", "version=1")
    assert go_build.source_key(tmp_path, "cmd/a", "version=1") == before
    assert go_build.source_key(tmp_path, "cmd/a", "version=2") != before
    assert go_build.source_key(tmp_path, "cmd/a", "version=1", "amd64") != before


def test_the_version_that_a_go_module_requires_is_found_by_its_whole_name() -> None:
    assert go_build.required(cluster_programs.KUBERNETES, "k8s.io/kubernetes").startswith("v1.")
    with pytest.raises(LookupError, match=r"go\.mod requires no io/kubernetes"):
        go_build.required(cluster_programs.KUBERNETES, "io/kubernetes")


def test_programs_of_kubebuilder_assets_go_before_our_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "kubectl").touch()
    monkeypatch.setenv("KUBEBUILDER_ASSETS", str(tmp_path))
    assert cluster_programs.program("kubectl") == tmp_path / "kubectl"


def test_every_program_of_the_control_plane_is_a_tool_of_its_module() -> None:
    tools = {name: (source / "go.mod").read_text() for name, (source, _) in cluster_programs.TOOLS.items()}
    assert [name for name, text in tools.items() if cluster_programs.TOOLS[name][1] not in text] == []


def test_a_generated_file_that_differs_is_shown_line_by_line() -> None:
    assert generate.difference("docs/a.md", "one\n", "one\n") == ""
    assert "-one\n+two\n" in generate.difference("docs/a.md", "one\n", "two\n")
