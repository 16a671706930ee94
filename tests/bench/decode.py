"""Times a JPEG of 12 megapixels on its way to 384 x 384 pixels: ours, Pillow's and libvips', each on one thread.

usage: decode.py BLIP   (the benchmark's program). needs: pillow, pyvips-binary
"""

import os
import subprocess
import sys
import tempfile

os.environ["VIPS_CONCURRENCY"] = "1"

import pyvips
from PIL import Image
from timing import best

SIDE = 384
REPEATS = 7


def photo(path):
    """A picture as detailed as a photograph: smooth shapes, with noise as a camera adds it."""
    size = (4000, 3000)
    smooth = Image.radial_gradient("L").resize(size, Image.BICUBIC)
    channels = [Image.blend(smooth.rotate(turn), Image.effect_noise(size, 25), 0.35) for turn in (0, 90, 180)]
    Image.merge("RGB", channels).save(path, quality=88)


def pillow(path, draft):
    image = Image.open(path)
    if draft:
        image.draft("RGB", (SIDE, SIDE))
    image.convert("RGB").resize((SIDE, SIDE), Image.BICUBIC).tobytes()


def main():
    with tempfile.TemporaryDirectory() as folder:
        path = f"{folder}/photo.jpg"
        photo(path)
        ours = subprocess.run([sys.argv[1], "--child-decode", path], check=True, capture_output=True, text=True)
        ours = float(ours.stdout)
        print(f"\na JPEG of 12 megapixels and {os.path.getsize(path) / 1e6:.1f} MB to {SIDE} x {SIDE}: ours {1e3 * ours:.0f} ms")
        vips = lambda: pyvips.Image.thumbnail(path, SIDE, height=SIDE, size="force").write_to_memory()
        for name, work in (
            ("Pillow, all pixels as ours", lambda: pillow(path, False)),
            ("Pillow's draft, which decodes scaled (other pixels)", lambda: pillow(path, True)),
            ("libvips' thumbnail, which decodes scaled (other pixels)", vips),
        ):
            theirs = best(work, REPEATS)
            print(f"  {name}: {1e3 * theirs:.0f} ms ({theirs / ours:.2f} x)")


main()
