"""Times OpenVINO on our benchmark's checkpoints: float32, bfloat16, and int8 with NNCF's static quantisation.

usage: openvino_peers.py DIR   (target/bench, after `cargo bench --bench blip -- --peers`). needs: torch, transformers, openvino, nncf

transformers' own decoder and matcher cannot be exported with a cache, so their parts are written here in plain torch over
the same weights, in the design that suits a runtime best: keys and values of an image are computed once, the decoder has a
cache, and the beams of an image are rows of one cross-attention. Before timing, each precision's logits are compared with
transformers' in float32; of int8 and bfloat16 that says what the precision costs with random weights.
"""

import contextlib
import io
import json
import sys
import warnings

warnings.filterwarnings("ignore")

import nncf
import numpy as np
import openvino
import torch
import torch.nn.functional as F
import transformers
from timing import best
from torch import nn
from transformers import BlipForConditionalGeneration, BlipForImageTextRetrieval

transformers.logging.set_verbosity_error()
nncf.set_log_level("ERROR")

BATCH, BEAMS, TOKENS, REPEATS = 8, 3, 20, 3
ENC, SEP, DEC = 30523, 102, 30522
DYNAMIC = torch.export.Dim.DYNAMIC


def split(x, heads):
    """[B, t, width] -> [B, heads, t, width / heads]."""
    return x.view(x.shape[0], x.shape[1], heads, -1).transpose(1, 2)


def join(x):
    return x.transpose(1, 2).reshape(x.shape[0], x.shape[2], -1)


class Vision(nn.Module):
    def __init__(self, model):
        super().__init__()
        self.vision = model.vision_model

    def forward(self, pixels):
        return self.vision(pixels)[0]


class CrossKv(nn.Module):
    """Image -> keys and values of each layer's cross-attention, alternating."""

    def __init__(self, layers, heads):
        super().__init__()
        self.layers, self.heads = layers, heads

    def forward(self, image):
        parts = [part for layer in self.layers for part in (layer.crossattention.self.key, layer.crossattention.self.value)]
        return tuple(split(part(image), self.heads) for part in parts)


class Text(nn.Module):
    """What decoder and encoder share."""

    def __init__(self, bert, heads):
        super().__init__()
        self.embeddings, self.layers, self.heads = bert.embeddings, bert.encoder.layer, heads

    def embed(self, ids, positions):
        e = self.embeddings
        return e.LayerNorm(e.word_embeddings(ids) + e.position_embeddings(positions))

    def rest(self, layer, attended, x, keys, values):
        """From the self-attention's result to the layer's; queries of an image are one batch of cross-attention."""
        x = layer.attention.output.LayerNorm(layer.attention.output.dense(attended) + x)
        query = layer.crossattention.self.query(x)
        query = query.view(keys.shape[0], -1, query.shape[-1])
        y = join(F.scaled_dot_product_attention(split(query, self.heads), keys, values)).view(x.shape)
        x = layer.crossattention.output.LayerNorm(layer.crossattention.output.dense(y) + x)
        return layer.output.LayerNorm(layer.output.dense(F.gelu(layer.intermediate.dense(x))) + x)


class Step(Text):
    """One token of each row -> logits and the new cache; `parents` reorders the cache by beams."""

    def __init__(self, decoder, heads):
        super().__init__(decoder.bert, heads)
        self.head = decoder.cls.predictions

    def forward(self, ids, positions, parents, cache, cross):
        x, present = self.embed(ids, positions), []
        for i, layer in enumerate(self.layers):
            own = layer.attention.self
            keys = torch.cat([cache[2 * i].index_select(0, parents), split(own.key(x), self.heads)], 2)
            values = torch.cat([cache[2 * i + 1].index_select(0, parents), split(own.value(x), self.heads)], 2)
            present += [keys, values]
            attended = join(F.scaled_dot_product_attention(split(own.query(x), self.heads), keys, values))
            x = self.rest(layer, attended, x, cross[2 * i], cross[2 * i + 1])
        return self.head.decoder(self.head.transform(x[:, -1])), tuple(present)


class Match(Text):
    """Texts of one length, one for each image -> ITM logits."""

    def __init__(self, model, heads):
        super().__init__(model.text_encoder, heads)
        self.itm = model.itm_head

    def forward(self, ids, positions, cross):
        x = self.embed(ids, positions)
        for i, layer in enumerate(self.layers):
            own = layer.attention.self
            parts = [split(part(x), self.heads) for part in (own.query, own.key, own.value)]
            x = self.rest(layer, join(F.scaled_dot_product_attention(*parts)), x, cross[2 * i], cross[2 * i + 1])
        return self.itm(x[:, 0])


class Reference:
    """The models of transformers, the work, and what they give in float32."""

    def __init__(self, folder, side):
        self.captioner = BlipForConditionalGeneration.from_pretrained(f"{folder}/base-captioner").eval()
        self.matcher = BlipForImageTextRetrieval.from_pretrained(f"{folder}/base-filter").eval()
        text = self.captioner.config.text_config
        self.heads, self.layers, self.width = text.num_attention_heads, text.num_hidden_layers, text.hidden_size
        random = torch.Generator().manual_seed(0)
        light = torch.linspace(-1, 1, BATCH).view(-1, 1, 1, 1)
        self.pixels = torch.randn(BATCH, 3, side, side, generator=random) + light
        self.ids = torch.randint(2000, 22000, (BATCH, TOKENS), generator=random)
        self.ids[:, 0], self.ids[:, -1] = ENC, SEP
        self.prompt = torch.tensor([[DEC, 1037, 3861]])
        images = self.captioner.vision_model(self.pixels[:2])[0]
        prompt = self.prompt.repeat(2, 1)
        self.decoded = self.captioner.text_decoder(
            input_ids=prompt, attention_mask=torch.ones_like(prompt), encoder_hidden_states=images,
            encoder_attention_mask=torch.ones(images.shape[:2], dtype=torch.long),
        ).logits[:, -1].numpy()
        self.matched = self.matcher(
            input_ids=self.ids[:2], attention_mask=torch.ones_like(self.ids[:2]), pixel_values=self.pixels[:2]
        ).itm_score.numpy()

    def empty(self, rows):
        return [torch.zeros(rows, self.heads, 0, self.width // self.heads) for _ in range(2 * self.layers)]

    def exported(self):
        """Each part as torch exports it."""
        heads, images = self.heads, self.captioner.vision_model(self.pixels[:2])[0]
        modules = {
            "vision": Vision(self.captioner),
            "vision_of_filter": Vision(self.matcher),
            "kv": CrossKv(self.captioner.text_decoder.bert.encoder.layer, heads),
            "kv_of_filter": CrossKv(self.matcher.text_encoder.encoder.layer, heads),
            "step": Step(self.captioner.text_decoder, heads),
            "match": Match(self.matcher, heads),
        }
        cross = modules["kv"](images)
        cache = tuple(torch.randn(2 * BEAMS, heads, 3, self.width // heads) for _ in cross)
        rows = torch.zeros(2 * BEAMS, 1, dtype=torch.long)
        some, each = {0: DYNAMIC}, tuple({0: DYNAMIC} for _ in cross)
        arguments = {
            "step": ((rows, torch.tensor([3]), torch.arange(2 * BEAMS), cache, cross),
                     (some, None, some, tuple({0: DYNAMIC, 2: DYNAMIC} for _ in cache), each)),
            "match": ((self.ids[:2], torch.arange(TOKENS), cross), (some, None, each)),
        }
        for name in modules:
            kv = name.startswith("kv")
            arguments.setdefault(name, ((images if kv else self.pixels[:2],), (some,)))
        exported = {}
        for name, module in modules.items():
            inputs, shapes = arguments[name]
            exported[name] = torch.export.export(module.eval(), inputs, dynamic_shapes=shapes, strict=False)
        return exported

    def samples(self):
        """Inputs of each part by which NNCF calibrates."""
        heads, found = self.heads, {name: [] for name in ("vision", "vision_of_filter", "kv", "kv_of_filter", "step", "match")}
        step = Step(self.captioner.text_decoder, heads)
        for pixels in self.pixels.split(2):
            images = [model.vision_model(pixels)[0] for model in (self.captioner, self.matcher)]
            cross = CrossKv(self.captioner.text_decoder.bert.encoder.layer, heads)(images[0])
            other = CrossKv(self.matcher.text_encoder.encoder.layer, heads)(images[1])
            for name, value in zip(("vision", "vision_of_filter", "kv", "kv_of_filter"), (pixels, pixels, *images)):
                found[name].append([value.numpy()])
            found["match"].append([self.ids[:2].numpy(), np.arange(TOKENS), *[x.numpy() for x in other]])
            ids, cache = torch.full((2, 1), DEC), self.empty(2)
            for at in range(4):
                if at:
                    inputs = [ids.numpy(), np.array([at]), np.arange(2)]
                    found["step"].append([*inputs, *[x.numpy() for x in cache], *[x.numpy() for x in cross]])
                logits, cache = step(ids, torch.tensor([at]), torch.arange(2), cache, cross)
                ids = logits.argmax(-1, keepdim=True)
        return found


class OpenVino:
    def __init__(self, reference, models, precision, threads):
        self.reference = reference
        options = {
            "INFERENCE_NUM_THREADS": threads, "NUM_STREAMS": 1, "PERFORMANCE_HINT": "LATENCY",
            "INFERENCE_PRECISION_HINT": precision,
        }
        core = openvino.Core()
        compiled = {name: core.compile_model(model, "CPU", options) for name, model in models.items()}
        self.requests = {name: model.create_infer_request() for name, model in compiled.items()}

    def run(self, name, *inputs, shapes=()):
        request = self.requests[name]
        # Memory of its own for outputs that the next run reads.
        for i, shape in enumerate(shapes):
            request.set_output_tensor(i, openvino.Tensor(openvino.Type.f32, openvino.Shape(shape)))
        for i, x in enumerate(inputs):
            request.set_input_tensor(i, x if isinstance(x, openvino.Tensor) else openvino.Tensor(np.ascontiguousarray(x)))
        request.infer()
        return [request.get_output_tensor(i) for i in range(len(request.model_outputs))]

    def step(self, ids, at, parents, cache, cross):
        r = self.reference
        before = cache[0].shape[2]
        shapes = [[len(ids), r.captioner.config.text_config.vocab_size]]
        shapes += [[len(ids), r.heads, before + 1, r.width // r.heads]] * (2 * r.layers)
        logits, *cache = self.run("step", ids, np.array([at]), parents, *cache, *cross, shapes=shapes)
        return torch.from_numpy(logits.data.copy()), cache

    def captions(self, pixels):
        count = len(pixels)
        cross = self.run("kv", self.run("vision", pixels.numpy())[0])
        rows = count * BEAMS
        scores = torch.full((count, BEAMS), -1e9)
        scores[:, 0] = 0
        sequences, parents = torch.full((rows, 1), DEC), torch.arange(rows)
        cache = [x.numpy() for x in self.reference.empty(rows)]
        for at in range(TOKENS - 1):
            logits, cache = self.step(sequences[:, -1:].numpy(), at, parents.numpy(), cache, cross)
            log_probs = torch.log_softmax(logits, -1)
            log_probs[:, SEP] = -torch.inf
            scores, best = (log_probs.view(count, BEAMS, -1) + scores[:, :, None]).view(count, -1).topk(BEAMS)
            parents = (best // log_probs.shape[-1] + torch.arange(count)[:, None] * BEAMS).view(-1)
            sequences = torch.cat([sequences[parents], (best % log_probs.shape[-1]).view(-1, 1)], 1)
        return sequences.view(count, BEAMS, -1)[:, 0]

    def cross_of_filter(self, pixels):
        return self.run("kv_of_filter", self.run("vision_of_filter", pixels.numpy())[0])

    def match(self, ids, cross):
        return self.run("match", ids.numpy(), np.arange(ids.shape[1]), *cross)[0].data

    def differences(self):
        r = self.reference
        cross = self.run("kv", self.run("vision", r.pixels[:2].numpy())[0])
        cache = [x.numpy() for x in r.empty(2)]
        for at, token in enumerate(r.prompt[0]):
            logits, cache = self.step(np.full((2, 1), token.item()), at, np.arange(2), cache, cross)
        matched = self.match(r.ids[:2], self.cross_of_filter(r.pixels[:2]))
        return np.abs(logits.numpy() - r.decoded).max(), np.abs(matched - r.matched).max()

    def seconds(self):
        r = self.reference
        work = {
            "vit": lambda: self.run("vision", r.pixels.numpy()),
            "caption": lambda: self.captions(r.pixels),
            # Both texts of an image with one encoding, as CapFilt has it.
            "itm": lambda: [self.match(r.ids, cross) for cross in [self.cross_of_filter(r.pixels)] for _ in range(2)],
        }
        times = {}
        for name, run in work.items():
            run()
            times[name] = best(run, REPEATS) / BATCH
        times["pair"] = times["caption"] + times["itm"]
        return times


def main():
    folder = sys.argv[1]
    ours = json.load(open(f"{folder}/ours.json"))
    torch.set_num_threads(ours["threads"])
    reference = Reference(folder, ours["image_size"])
    exported, samples, figures = reference.exported(), reference.samples(), {}
    print(f"\nOpenVINO {openvino.__version__}, {ours['threads']} threads, batch {BATCH}")
    print(f"  seconds for an image {'ViT':>8} {'caption':>9} {'ITM of 2':>9} {'pair':>8}   pair beside ours; logits' difference: decoder, ITM")
    for name, precision in (("float32", "f32"), ("bfloat16", "bf16"), ("int8 by NNCF", "f32")):
        models = {part: openvino.convert_model(program) for part, program in exported.items()}
        if name.startswith("int8"):
            quantise = lambda part, model: nncf.quantize(
                model, nncf.Dataset(samples[part]), model_type=nncf.ModelType.TRANSFORMER, subset_size=len(samples[part])
            )
            # Without its progress bars, which are on stdout.
            with contextlib.redirect_stdout(io.StringIO()):
                models = {part: quantise(part, model) for part, model in models.items()}
        backend = OpenVino(reference, models, precision, ours["threads"])
        decoder, itm = backend.differences()
        t = backend.seconds()
        figures[name] = {"seconds": t, "decoder": float(decoder), "itm": float(itm)}
        beside = ", ".join(
            f"{p} {t['pair'] / ours['seconds'][p][str(BATCH)]['pair']['min']:.2f} x" for p in ours["seconds"]
        )
        print(f"  {name:<20} {t['vit']:8.4f} {t['caption']:9.4f} {t['itm']:9.4f} {t['pair']:8.4f}   {beside}; {decoder:.1e}, {itm:.1e}", flush=True)
        del backend, models
    with open(f"{folder}/openvino.json", "w") as file:
        json.dump(figures, file, indent=2)


with torch.no_grad():
    main()
