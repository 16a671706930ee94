"""Times Hugging Face transformers on our benchmark's checkpoints and prints ratios to our figures from the same run.

usage: peers.py DIR   (target/bench, after `cargo bench --bench blip -- --peers`). needs: torch, transformers, safetensors

Each call encodes the image again, as in usual transformers code. Before timing, the float32 logits of both sides must
agree to 1e-3, for BLIP-base and with ViT-L; otherwise it prints the difference and exits with 1.
"""

import gc
import json
import logging
import os
import sys
import warnings

os.environ["HF_HUB_OFFLINE"] = "1"
warnings.filterwarnings("ignore")

import torch
import transformers
from safetensors.torch import load_file
from timing import best as least
from transformers import BlipForConditionalGeneration, BlipForImageTextRetrieval

transformers.logging.set_verbosity_error()
transformers.logging.disable_progress_bar()
logging.disable(logging.WARNING)

TOLERANCE = 1e-3
BATCH = 8
TOKENS = 20
REPEATS = 3
# Seconds after which a measurement is not repeated: bfloat16 takes minutes on a CPU without instructions for it.
ENOUGH = 60
TYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}


def load(cls, folder, dtype):
    model, info = cls.from_pretrained(folder, dtype=dtype, output_loading_info=True)
    if info["missing_keys"] or info["unexpected_keys"]:
        sys.exit(f"{folder}: transformers misses {info['missing_keys']}, does not know {info['unexpected_keys']}")
    return model.eval()


def parity(folder, sizes=("base", "large")):
    """Largest difference of the logits for each size; exits if one is too large."""
    ours = load_file(f"{folder}/parity.safetensors")
    worst = {}
    for size in sizes:
        pixels, prompt, texts = (ours[f"{size}.{name}"] for name in ("pixels", "prompt", "texts"))
        images = len(pixels)
        captioner = load(BlipForConditionalGeneration, f"{folder}/{size}-captioner", torch.float32)
        tokens = captioner.vision_model(pixels)[0]
        ids = prompt.repeat(images, 1)
        decoded = captioner.text_decoder(
            input_ids=ids,
            attention_mask=torch.ones_like(ids),
            encoder_hidden_states=tokens,
            encoder_attention_mask=torch.ones(tokens.shape[:2], dtype=torch.long),
        ).logits[:, -1]
        del captioner
        matcher = load(BlipForImageTextRetrieval, f"{folder}/{size}-filter", torch.float32)
        matched = [itm(matcher, pixels, text.repeat(images, 1)) for text in texts]
        del matcher
        gc.collect()
        # Agreement is only meaningful if the logits depend on image and text.
        itm_logits = ours[f"{size}.itm_logits"]
        for what, logits in (
            ("decoder logits, between images", ours[f"{size}.decoder_logits"]),
            ("ITM logits, between images", itm_logits),
            ("ITM logits, between texts", itm_logits.transpose(0, 1)),
        ):
            moved = (logits[0] - logits[1]).abs().max().item()
            if not moved > 10 * TOLERANCE:
                sys.exit(f"{size}, {what}: they differ by {moved:.1e} only, so agreement to {TOLERANCE:.0e} shows nothing")
        for what, theirs, mine in (
            ("decoder logits", decoded, ours[f"{size}.decoder_logits"]),
            ("ITM logits", torch.stack(matched, 1), ours[f"{size}.itm_logits"]),
        ):
            if theirs.shape != mine.shape:
                sys.exit(f"{size}, {what}: shapes {tuple(theirs.shape)} and {tuple(mine.shape)}")
            worst[f"{size}, {what}"] = (theirs - mine).abs().max().item()
    for what, difference in worst.items():
        print(f"  {what + ', largest difference':<44} {difference:12.1e}   at most {TOLERANCE:.0e}")
    # Not `>`: a NaN must not pass.
    if not all(difference <= TOLERANCE for difference in worst.values()):
        sys.exit("the logits differ: no ratios")
    return worst


def itm(matcher, pixels, ids):
    """ITM logits of each image with its text."""
    return matcher(input_ids=ids, attention_mask=torch.ones_like(ids), pixel_values=pixels).itm_score


def best(work):
    return least(work, REPEATS, ENOUGH)


def peak(size):
    a = torch.rand(size, size)
    return 2 * size**3 / best(lambda: a @ a) / 1e9


def timed(folder, dtype, side):
    """Seconds per image: ViT, caption, ITM of one text, and CapFilt's combination of one caption and two texts."""
    generator = torch.Generator().manual_seed(0)
    pixels = torch.randn(BATCH, 3, side, side, generator=generator).to(dtype)
    ids = torch.randint(2000, 22000, (BATCH, TOKENS), generator=generator)
    ids[:, 0], ids[:, -1] = 30523, 102
    captioner = load(BlipForConditionalGeneration, f"{folder}/base-captioner", dtype)
    options = dict(num_beams=3, max_length=TOKENS, min_length=TOKENS, do_sample=False)
    # Also serves as the warm-up.
    tokens = captioner.generate(pixel_values=pixels[:1], **options).shape[1]
    if tokens != TOKENS:
        sys.exit(f"transformers' caption has {tokens} tokens")
    vit = best(lambda: captioner.vision_model(pixels))
    caption = best(lambda: captioner.generate(pixel_values=pixels, **options))
    del captioner
    matcher = load(BlipForImageTextRetrieval, f"{folder}/base-filter", dtype)
    itm(matcher, pixels[:1], ids[:1])
    match = best(lambda: itm(matcher, pixels, ids))
    del matcher
    gc.collect()
    return {"vit": vit / BATCH, "caption": caption / BATCH, "itm_of_one": match / BATCH, "pair": (caption + 2 * match) / BATCH}


def main():
    folder = sys.argv[1]
    ours = json.load(open(f"{folder}/ours.json"))
    torch.set_num_threads(ours["threads"])
    print(f"\ntransformers {transformers.__version__} on torch {torch.__version__}, {ours['threads']} threads, batch {BATCH}")
    worst = parity(folder)
    theirs = {name: timed(folder, dtype, ours["image_size"]) for name, dtype in TYPES.items()}
    product = peak(256 if ours["quick"] else 4096)
    print(f"\n  seconds for an image {'ViT':>12} {'caption':>10} {'ITM of 1':>10} {'pair: caption + 2 ITM':>23}")
    for name, t in theirs.items():
        print(f"  {name:<20} {t['vit']:12.4f} {t['caption']:10.4f} {t['itm_of_one']:10.4f} {t['pair']:23.4f}")
    print(f"  torch's best float32 product afterwards: {product:.0f} GFLOP/s\n")

    wanted = [
        ("pair", "fp32", "float32", 2.3),
        ("pair", "int8", "float32", 5.5),
        ("pair", "int8", "bfloat16", 2.1),
        ("caption", "fp32", "float32", None),
        ("caption", "int8", "float32", None),
        ("caption", "int8", "bfloat16", 1.9),
        ("vit", "fp32", "float32", None),
        ("vit", "int8", "bfloat16", None),
    ]
    ratios = {}
    for part, precision, dtype, target in wanted:
        ratio = theirs[dtype][part] / ours["seconds"][precision][str(BATCH)][part]["min"]
        name = f"{part}: ours {precision} against {dtype}"
        ratios[name] = ratio
        verdict = "" if target is None else f"   to reach: {target}: {'reached' if ratio >= target else 'not reached'}"
        print(f"  {name:<44} {ratio:10.2f} x{verdict}")
    figures = {
        "transformers": transformers.__version__,
        "torch": torch.__version__,
        "largest_differences": worst,
        "seconds": theirs,
        "ratios": ratios,
        "peak_gflops": product,
    }
    with open(f"{folder}/peers.json", "w") as file:
        json.dump(figures, file, indent=2)
    print(f"\nall figures: {folder}/peers.json")


with torch.inference_mode():
    main()
