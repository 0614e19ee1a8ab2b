"""Translate a picture with a checkpoint of any known layout.

python examples/checkpoint_in_five_lines.py latest_net_G.pth photo.jpg translated.png
"""

import sys

import cv2

import engine

checkpoint, picture, output = sys.argv[1:]
translator = engine.Translator(checkpoint, backend="auto", precision="auto", device="auto")
frame = cv2.imread(picture)  # uint8 [H, W, 3], BGR
translated = translator(frame)  # the same shape, times the generator's scale
cv2.imwrite(output, translated)
