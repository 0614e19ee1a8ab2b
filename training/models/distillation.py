"""Distillation: a small generator learns the pictures of a large one (Hinton et al., arXiv:1503.02531).

    python -m training.fetch_images
    python -m training.train --model distillation --dataroot ~/.cache/streamgan/data/images --name vermilion \
        --teacher ~/.cache/streamgan/data/teacher/multistyle26.onnx --teacher_style 4

The teacher paints crops of the pictures once. The student's inputs get a little noise: it learns to ignore what noise
changes between two frames.
"""

from __future__ import annotations

import argparse
import copy
from pathlib import Path

import torch

from engine.checkpoint import save_generator
from engine.errors import EngineError
from engine.generators import Generator
from training import distributed
from training.data import Transform, open_dataset
from training.gallery import to_pictures
from training.metrics import mean_quality
from training.models.pix2pix import Pix2Pix


class Distillation(Pix2Pix):
    """G, the student: A -> B, the teacher's picture of A. The losses are pix2pix's."""

    has_dropout = False

    def __init__(self, options: argparse.Namespace, device: torch.device) -> None:
        if options.dataset_mode != "distillation":
            raise EngineError("--model distillation makes its own pairs: it takes --dataset_mode distillation only")
        super().__init__(options, device)

    @torch.inference_mode()
    def finish(self, folder: Path) -> None:
        """Writes NAME.safetensors, a style in half precision with its quality on held-out pictures."""
        options = self.options
        student = self.averages["G"].network if options.ema else self.generator("G")
        student.eval()
        assert isinstance(student, Generator)
        transform = Transform("crop", crop_size=options.crop_size, flip=False, multiple=self.size_multiple)
        held_out = open_dataset(options, transform, phase="test")
        if distributed.rank() != 0:
            return
        samples = [held_out[0, index] for index in range(len(held_out))]
        painted = [to_pictures(student(sample["A"][None].to(self.device)))[0] for sample in samples]
        quality = mean_quality(painted, [to_pictures(sample["B"][None])[0] for sample in samples])
        summary = f"PSNR {quality['psnr']:.2f} dB, SSIM {quality['ssim']:.4f}"
        fields = {
            "name": options.name,
            "description": options.description,
            "trained_on": options.trained_on,
            "licence": options.licence,
            "author": options.author,
            "teacher": options.teacher.name
            + ("" if options.teacher_style is None else f" style {options.teacher_style}"),
            "held_out_quality": f"{summary} against the teacher",
        }
        path = folder / f"{Path(options.name).name}.safetensors"
        metadata = {name: text for name, text in fields.items() if text}
        save_generator(copy.deepcopy(student).half(), path, metadata=metadata)
        print(f"{path}: {summary} on {len(samples)} held-out crops", flush=True)
