"""Export a generator, then run the file with PyTorch and OpenCV alone, on a machine without this project.

python examples/export_and_load.py export latest_net_G.pth generator.pt
python examples/export_and_load.py load generator.pt photo.jpg translated.png
"""

import sys
from pathlib import Path

import cv2
import torch

action, file, *pictures = sys.argv[1:]
if action == "export":
    import engine
    from engine.export import export

    export(engine.load_generator(file), "torchscript", Path(pictures[0]), size=(640, 360), precision="fp32")
else:
    frame = torch.from_numpy(cv2.resize(cv2.imread(pictures[0]), (640, 360)))
    # RGB [1, 3, H, W] in -1...1; generator.pt.json, which export wrote, describes input and output.
    image = torch.jit.load(file)(frame.flip(2).permute(2, 0, 1)[None] / 127.5 - 1)
    translated = ((image[0].permute(1, 2, 0).flip(2) + 1) * 127.5).round().clamp(0, 255).byte()
    cv2.imwrite(pictures[1], translated.numpy())
