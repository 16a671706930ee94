"""Times a pretraining step in PyTorch on Hugging Face's BLIP modules, beside ours of the same sizes; prints ratios and memory.

usage: train_peers.py STEP_TIME [--device cuda:0] [--sizes tiny base-14m] [--kinds float32 bfloat16] [--steps 5]

STEP_TIME is the built example of the training crate (cargo build --workspace --example step_time). The step is the
one that tests/fixtures/med.py checks ours against: one ViT pass, three text passes, momentum encoders, queues, hard negatives,
AdamW; dropout off, random pairs. PyTorch's bfloat16 is autocast's. Memory is the most that a process had resident, libraries and all.
"""

import argparse
import json
import multiprocessing
import os
import resource
import subprocess
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "fixtures"))

import torch
from med import Med
from torch.nn.functional import cross_entropy, log_softmax, normalize, one_hot, softmax
from transformers import BlipTextConfig, BlipVisionConfig

# Image side, patch, (width, MLP, layers, heads) of ViT and text transformer, projection, vocabulary, batch.
SIZES = {
    "tiny": (48, 8, (96, 384, 4, 4), (96, 384, 3, 4), 64, 462, 64),
    "base-14m": (224, 16, (768, 3072, 12, 12), (768, 3072, 12, 12), 256, 30524, 8),
}
TOKENS, ALPHA, MOMENTUM = 20, 0.4, 0.995


def theirs(size, kind, device, steps):
    """Seconds of the best step, and MB of this process at most."""
    side, patch, vision, text, projection, words, batch = SIZES[size]
    sizes = lambda s: dict(hidden_size=s[0], intermediate_size=s[1], num_hidden_layers=s[2], num_attention_heads=s[3])
    vision_config = BlipVisionConfig(**sizes(vision), image_size=side, patch_size=patch, attention_dropout=0.0)
    text_config = BlipTextConfig(
        **sizes(text), vocab_size=words, encoder_hidden_size=vision[0], max_position_embeddings=40 if size == "tiny" else 512,
        bos_token_id=words - 2, sep_token_id=words - 3, pad_token_id=0, hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0)
    torch.manual_seed(1)
    live, momentum = (Med(vision_config, text_config, projection, words - 1).to(device).train() for _ in range(2))
    names = {n for n, _ in momentum.named_parameters()
             if n.startswith(("vision_model", "vision_proj", "text_proj", "text_encoder")) and "crossattention" not in n}
    moved = [p for n, p in momentum.named_parameters() if n in names]
    followed = [p for n, p in live.named_parameters() if n in names]
    adamw = torch.optim.AdamW(live.parameters(), lr=1e-4, weight_decay=0.05)
    queues = [normalize(torch.randn(16 * batch, projection, device=device), dim=-1) for _ in range(2)]
    pixels = torch.randn(batch, 3, side, side, device=device)
    ids = torch.randint(1, words - 3, (batch, TOKENS), device=device)
    mask = torch.ones_like(ids)
    hard = one_hot(torch.arange(batch, device=device), 17 * batch).float()
    labels = torch.tensor([1] * batch + [0] * 2 * batch, device=device)

    def step():
        with torch.autocast(device.split(":")[0], torch.bfloat16, enabled=kind == "bfloat16"):
            with torch.no_grad():
                live.temp.clamp_(0.001, 0.5)
                torch._foreach_lerp_(moved, followed, 1 - MOMENTUM)
                keys = [momentum.image(pixels)[1].float(), momentum.unimodal(ids, mask).float()]
                image_keys, text_keys = (torch.cat([k, q]) for k, q in zip(keys, queues))
                targets = [ALPHA * softmax(own @ other.T / live.temp, 1) + (1 - ALPHA) * hard
                           for own, other in zip(keys, (text_keys, image_keys))]
            tokens, image = live.image(pixels)
            text = live.unimodal(ids, mask)
            i2t, t2i = image.float() @ text_keys.T / live.temp, text.float() @ image_keys.T / live.temp
            itc = -((log_softmax(i2t, 1) * targets[0]).sum(1).mean() + (log_softmax(t2i, 1) * targets[1]).sum(1).mean()) / 2
            with torch.no_grad():
                weights = [(softmax(s[:, :batch].float(), 1) + 1e-4).fill_diagonal_(0) for s in (t2i, i2t)]
                images, texts = (torch.multinomial(w, 1)[:, 0] for w in weights)
            logits = live.match(
                torch.cat([ids, ids, ids[texts]]), torch.cat([mask, mask, mask[texts]]), torch.cat([tokens, tokens[images], tokens]))
            itm = cross_entropy(logits.float(), labels)
            decoded = live.decode(ids, mask, tokens)[:, :-1].float()
            lm = cross_entropy(decoded.reshape(-1, words), ids[:, 1:].reshape(-1), label_smoothing=0.1)
        adamw.zero_grad()
        (itc + itm + lm).backward()
        adamw.step()
        for queue, key in zip(queues, keys):
            queue.copy_(torch.cat([key, queue[:-batch]]))
        return itc.item() + itm.item() + lm.item()

    seconds = []
    for i in range(steps + 2):
        began = time.perf_counter()
        step()
        if i > 1:
            seconds.append(time.perf_counter() - began)
    return min(seconds), resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def ours(args, size, kind):
    """The example's figures, and MB of its process at most."""
    side, patch, vision, text, projection, words, batch = SIZES[size]
    command = [args.step_time, "--preset", size, "--batch", batch, "--tokens", TOKENS, "--words", words, "--steps", args.steps,
               "--device", args.device]
    child = subprocess.Popen([str(w) for w in command] + ["--bfloat16"] * (kind == "bfloat16"), stdout=subprocess.PIPE)
    figures = json.loads(child.stdout.read() or "{}")
    _, status, used = os.wait4(child.pid, 0)
    if status:
        sys.exit(f"{args.step_time} failed")
    return figures, used.ru_maxrss / 1024


def theirs_apart(size, kind, args):
    """In a process of its own, whose memory is its own."""
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        return pool.apply(theirs, (size, kind, args.device, args.steps))


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("step_time")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--sizes", nargs="+", choices=SIZES, default=list(SIZES))
    parser.add_argument("--steps", type=int, default=5, help="steps that are timed, after two that are not")
    parser.add_argument("--kinds", nargs="+", choices=["float32", "bfloat16"], default=["float32", "bfloat16"])
    args = parser.parse_args()
    print(f"torch {torch.__version__}, {torch.get_num_threads()} threads, {args.device}")
    for size in args.sizes:
        reference = None
        for kind in args.kinds:
            # In the order ours, theirs, theirs, ours, so that neither gains from running first.
            found, memory = ours(args, size, kind)
            their, their_memory = theirs_apart(size, kind, args)
            again = theirs_apart(size, kind, args)[0]
            our = min(found["seconds_a_step"], ours(args, size, kind)[0]["seconds_a_step"])
            their = min(their, again)
            reference = reference or their
            batch = SIZES[size][-1]
            print(f"{size}, {kind}, batch {batch}: ours {our:.3f} s a step ({batch / our:.1f} images/s), PyTorch {their:.3f} s: "
                  f"{their / our:.2f} x; against PyTorch float32 {reference / our:.2f} x; best product in {kind} {found['best_product_gflops']:.0f} GFLOP/s; "
                  f"most memory: ours {memory:.0f} MB, PyTorch {their_memory:.0f} MB", flush=True)


if __name__ == "__main__":
    main()
