"""A cluster that isn't there: one line, and soon."""

from __future__ import annotations

import socket
import sys
from pathlib import Path

import pytest

from engine.cluster import cluster as cluster_module
from engine.cluster.cluster import Cluster
from engine.errors import ClusterError
from engine.run import main
from engine.samples import SAMPLE

needs_ray = pytest.mark.usefixtures("ray")


@pytest.fixture
def ray() -> None:
    pytest.importorskip("ray", reason="Ray is not installed: python -m pip install 'streamgan[cluster]'")


def refusal(address: str) -> str:
    with pytest.raises(ClusterError) as raised:
        Cluster(address, threads=None, use_gpus=False)
    assert "\n" not in str(raised.value)
    return str(raised.value)


def test_ray_is_not_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    assert refusal("auto") == '--cluster needs Ray: python -m pip install "streamgan[cluster]"'


@needs_ray
@pytest.mark.parametrize("address", ["nowhere", "host:", ":6379", "ray://host:10001", "host:port", "127.0.0.1:99999"])
def test_what_is_no_address(address: str) -> None:
    assert "HOST:PORT" in refusal(address) or "no cluster at" in refusal(address)


@needs_ray
def test_nobody_listens() -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{unused.getsockname()[1]}"
    assert f"no cluster at {address} (Connection refused): start one with `ray start --head" in refusal(address)


@needs_ray
def test_something_else_listens(monkeypatch: pytest.MonkeyPatch) -> None:
    """Ray's own client would wait for ever."""
    monkeypatch.setattr(cluster_module, "CONNECT_SECONDS", 3.0)
    with socket.create_server(("127.0.0.1", 0)) as server:
        address = f"127.0.0.1:{server.getsockname()[1]}"
        assert f"no cluster at {address} (Ray does not answer within 3 s)" in refusal(address)


@needs_ray
def test_no_cluster_on_this_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    """What Ray says then; a machine that runs tests may well have a cluster."""
    reason = "Could not find any running Ray instance. Please specify the one to connect to."
    monkeypatch.setattr(cluster_module, "_TRY", f"import sys; sys.exit({reason!r})")
    assert refusal("auto").startswith(f"no cluster at auto ({reason[:-1]}): start it with `ray start --head`")


@pytest.mark.parametrize("option", [["--part-seconds", "0"], ["--hwaccel", "cuda"], ["--show"], ["--benchmark"]])
def test_what_does_not_go_with_a_cluster(
    option: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("engine.video.choose_hardware", lambda *_: None)
    assert main([str(SAMPLE), "-o", str(tmp_path / "out.mp4"), "--cluster", "auto", *option]) == 1
    assert "--cluster keeps parts: it goes without" in capsys.readouterr().err
