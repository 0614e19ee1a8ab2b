"""The undamaged files that mutations start from, made once per run, the same ones in every run."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path
from typing import Any

from tests.media import Audio, Text, make_video

BITEXACT = {"fflags": "+bitexact"}


def make_videos(folder: Path) -> list[Path]:
    """A small file of each container, with sound, B-frames and subtitles where it holds them."""
    shared = {"size": (48, 32), "container_options": BITEXACT, **timing(90000)}
    h264 = {"options": {"bf": "2", "g": "8", "threads": "1"}}
    sound = {"audio": (Audio(seconds=0.6, layout="mono"),)}
    fragmented = {"container_options": BITEXACT | {"movflags": "frag_keyframe"}}
    chapters = [{"id": 1, "start": 0, "end": 300, "time_base": Fraction(1, 1000), "metadata": {"title": "one"}}]
    videos: dict[str, dict[str, Any]] = {
        "h264.mp4": h264 | sound | {"rotation": (90.0, False, False), "chapters": chapters},
        "front.mp4": h264 | {"container_options": BITEXACT | {"movflags": "+faststart"}},
        "fragments.mp4": h264 | sound | fragmented,
        "h264.mkv": h264 | sound | {"texts": (Text(),), "attachment": b"font" * 20, "cover": True},
        "vp8.webm": {"codec": "libvpx", "audio": (Audio("libopus", seconds=0.6),), "options": {"g": "8"}},
        "h264.ts": h264 | sound,
        "mpeg2.ts": {"codec": "mpeg2video", "audio": (Audio("mp2", seconds=0.6),), "options": {"bf": "2"}} | timing(25),
        "mpeg4.avi": {"codec": "mpeg4", "audio": (Audio("libmp3lame", seconds=0.6),)} | timing(25),
        "mpeg4.mov": {"codec": "mpeg4", "audio": (Audio("pcm_s16le", seconds=0.6),)} | timing(25),
        "h264.flv": h264 | sound | timing(1000),
        "palette.gif": {"codec": "gif", "pixel_format": "rgb8"} | timing(100),
    }
    return [make_video(folder / name, **(shared | settings)) for name, settings in videos.items()]


def timing(ticks: int) -> dict[str, Any]:
    """15 frames at 25 a second, in a clock of so many ticks a second."""
    return {"pts": [index * ticks // 25 for index in range(15)], "time_base": Fraction(1, ticks)}


def make_checkpoints(folder: Path) -> list[Path]:
    """Small generators in the three formats."""
    import torch

    from engine import save_generator
    from engine.generators import ResNetConfig, SRVGGConfig, build

    torch.manual_seed(0)
    srvgg = build(SRVGGConfig(width=4, convolutions=1, scale=1))
    resnet = build(ResNetConfig(width=4, blocks=1))
    paths = [folder / name for name in ("srvgg.pth", "legacy.pth", "resnet.pth", "wrapped.pth", "native.safetensors")]
    torch.save(srvgg.state_dict(), paths[0])
    torch.save(srvgg.state_dict(), paths[1], _use_new_zipfile_serialization=False)
    torch.save(resnet.state_dict(), paths[2])
    torch.save({"epoch": 3, "params_ema": srvgg.state_dict(), "history": [1, 2.0, "x"]}, paths[3])
    save_generator(srvgg, paths[4])
    return paths
