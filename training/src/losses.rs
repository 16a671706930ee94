//! Objectives of MED (paper, section 3.2): image-text contrast, image-text matching, language modelling; and that of the
//! answerer (section 5.3): language modelling of weighted answers.

use rand_chacha::rand_core::Rng;
use tch::{Kind, Reduction, Tensor, no_grad};

use crate::random::draw;

/// Label smoothing of the LM loss in BLIP.
pub const LABEL_SMOOTHING: f64 = 0.1;

/// Ignore index: label of positions that do not count in the loss.
const IGNORED: i64 = -100;

/// Similarities divided by the temperature, of live features to momentum features: this batch's, then the queue's.
#[derive(Debug)]
pub struct Similarities {
    /// `[B, B + queue]`, images to texts.
    pub image_to_text: Tensor,
    /// `[B, B + queue]`, texts to images.
    pub text_to_image: Tensor,
}

/// Unit-length features: `[B, projection]`, or `[B + queue, projection]` for keys.
#[derive(Debug)]
pub struct Features {
    /// Features of images.
    pub images: Tensor,
    /// Features of texts.
    pub texts: Tensor,
}

/// Targets `[B, K]` that mark each row's keys of the same image, from int64 ids `[B]` and `[K]`; each row sums to 1.
pub fn same_image(rows: &Tensor, keys: &Tensor) -> Tensor {
    let same = rows.unsqueeze(1).eq_tensor(&keys.unsqueeze(0)).to_kind(Kind::Float);
    &same / same.sum_dim_intlist(-1, true, Kind::Float)
}

/// ITC loss. `momentum` are the momentum encoders' features of this batch, `keys` the same followed by the queues. The
/// targets are `alpha` times the momentum encoders' softmax plus `1 - alpha` times `pairs` `[B, B + queue]`, which
/// serves both directions.
pub fn itc(
    live: &Features,
    momentum: &Features,
    keys: &Features,
    pairs: &Tensor,
    temp: &Tensor,
    alpha: f64,
) -> (Tensor, Similarities) {
    let against = |queries: &Tensor, keys: &Tensor| queries.matmul(&keys.transpose(0, 1)) / temp;
    let targets = |queries: &Tensor, keys: &Tensor| {
        no_grad(|| against(queries, keys).softmax(-1, Kind::Float) * alpha + pairs * (1.0 - alpha))
    };
    let image_to_text = against(&live.images, &keys.texts);
    let text_to_image = against(&live.texts, &keys.images);
    let side = |similarities: &Tensor, targets: Tensor| {
        -(similarities.log_softmax(-1, Kind::Float) * targets).sum_dim_intlist(-1, false, Kind::Float).mean(Kind::Float)
    };
    let loss = (side(&image_to_text, targets(&momentum.images, &keys.texts))
        + side(&text_to_image, targets(&momentum.texts, &keys.images)))
        / 2.0;
    (loss, Similarities { image_to_text, text_to_image })
}

/// ITM negatives of a batch: mismatched rows of texts and images.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Negatives {
    /// (text, image): a wrong image for each text that has one.
    pub images: Vec<(i64, i64)>,
    /// (text, image): a wrong text for each image that has one.
    pub texts: Vec<(i64, i64)>,
}

/// Sampling weights `[B, B]` of negatives: softmax of the batch's own similarities plus `floor`, which is 1e-4 in
/// BLIP's pretraining and 0 in its finetuning for retrieval. Pairs that `same` marks, those with the same image or
/// text, get 0.
pub fn negative_weights(similarities: &Tensor, same: &Tensor, floor: f64) -> Tensor {
    no_grad(|| {
        let batch = similarities.size()[0];
        let weights = similarities.narrow(1, 0, batch).softmax(-1, Kind::Float) + floor;
        weights.masked_fill(same, 0.0)
    })
}

/// Mask `[B, B]`, bool: whether two rows have the same image or text, or are the same row. `images` and `texts`
/// identify each row's image and text.
pub fn same_pairs<T: PartialEq, U: PartialEq>(images: &[T], texts: &[U]) -> Tensor {
    let rows = images.len();
    let same = |i: usize, j: usize| i == j || images[i] == images[j] || texts[i] == texts[j];
    let flat: Vec<bool> = (0..rows * rows).map(|at| same(at / rows, at % rows)).collect();
    Tensor::from_slice(&flat).view([rows as i64, rows as i64])
}

/// Draws an image for each text and a text for each image. A row whose weights are all 0 has no negative.
pub fn negatives(similarities: &Similarities, same: &Tensor, floor: f64, rng: &mut impl Rng) -> Negatives {
    let mut side = |similarities: &Tensor| -> Vec<(i64, i64)> {
        let weights = negative_weights(similarities, same, floor).to_device(tch::Device::Cpu).to_kind(Kind::Double);
        let batch = weights.size()[0];
        let rows = (0..batch).map(|i| Vec::<f64>::try_from(weights.get(i)).unwrap_or_default());
        let drawn = rows.enumerate().map(|(i, weights)| draw(&weights, rng).map(|j| (i as i64, j as i64)));
        drawn.flatten().collect()
    };
    let images = side(&similarities.text_to_image);
    let texts = side(&similarities.image_to_text).into_iter().map(|(image, text)| (text, image)).collect();
    Negatives { images, texts }
}

/// ITM loss from logits `[N, 2]`, of which the first `positives` rows are matching pairs.
pub fn itm(logits: &Tensor, positives: i64) -> Tensor {
    let all = logits.size()[0];
    let options = (Kind::Int64, logits.device());
    let targets = Tensor::cat(&[Tensor::ones([positives], options), Tensor::zeros([all - positives], options)], 0);
    logits.cross_entropy_for_logits(&targets)
}

/// LM loss from logits `[N, L, vocabulary]`: mean cross entropy of the next tokens of ids `[N, L]`. Tokens with `mask` 0
/// and the first `prompt` tokens after [DEC] are not targets. `smoothing` is the share of each target spread evenly over
/// the vocabulary.
pub fn lm(logits: &Tensor, ids: &Tensor, mask: &Tensor, prompt: i64, smoothing: f64) -> Tensor {
    next_token(logits, ids, mask, prompt, smoothing, Reduction::Mean)
}

/// Loss of answers: the cross entropy of each answer's tokens, summed over the tokens, times the answer's weight, and that
/// summed over the answers and divided by the number of images (BLIP's `blip_vqa.py`). `logits` are
/// `[M, L, vocabulary]`, `ids` and `mask` `[M, L]`, `weights` `[M]`.
pub fn answers(logits: &Tensor, ids: &Tensor, mask: &Tensor, weights: &Tensor, images: i64, smoothing: f64) -> Tensor {
    let (rows, length) = (ids.size()[0], ids.size()[1]);
    let tokens = next_token(logits, ids, mask, 0, smoothing, Reduction::None).view([rows, length - 1]);
    (tokens.sum_dim_intlist(-1, false, Kind::Float) * weights).sum(Kind::Float) / images as f64
}

/// Cross entropy of the next tokens, as in [`lm`]; without reduction `[N * (L - 1)]`, 0 where there is no target.
fn next_token(
    logits: &Tensor,
    ids: &Tensor,
    mask: &Tensor,
    prompt: i64,
    smoothing: f64,
    reduction: Reduction,
) -> Tensor {
    let (length, vocabulary) = (ids.size()[1], logits.size()[2]);
    let targets = ids.masked_fill(&mask.eq(0.0), IGNORED).narrow(1, 1, length - 1);
    let targets = match prompt.min(length - 1) {
        0 => targets,
        n => Tensor::cat(&[targets.narrow(1, 0, n).full_like(IGNORED), targets.narrow(1, n, length - 1 - n)], 1),
    };
    let logits = logits.narrow(1, 0, length - 1).reshape([-1, vocabulary]);
    logits.cross_entropy_loss(&targets.reshape([-1]), None::<Tensor>, reduction, IGNORED, smoothing)
}
