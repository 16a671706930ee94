//! Times training steps on random pairs, and the machine's best matrix product for comparison; prints JSON.
//!
//! ```console
//! $ step_time --preset tiny --batch 64 --steps 10 [--bfloat16] [--device cuda:0]
//! ```
//!
//! tests/bench/train_peers.py times the same step in PyTorch.

use std::time::Instant;

use capfilt_training::med::Texts;
use capfilt_training::memory::keep_freed;
use capfilt_training::settings::Settings;
use capfilt_training::step::{Batch, Trainer};
use capfilt_udfs::text::SpecialIds;
use clap::Parser;
use tch::{Kind, Tensor};

#[derive(Debug, Parser)]
struct Args {
    /// Sizes: tiny, base-14m or large
    #[arg(long, default_value = "tiny")]
    preset: String,
    /// Pairs per step
    #[arg(long, default_value_t = 64)]
    batch: i64,
    /// Tokens per text
    #[arg(long, default_value_t = 20)]
    tokens: i64,
    /// Vocabulary size
    #[arg(long, default_value_t = 462)]
    words: usize,
    /// Timed steps, after two untimed ones
    #[arg(long, default_value_t = 10)]
    steps: usize,
    /// Runs matrix products in bfloat16
    #[arg(long)]
    bfloat16: bool,
    /// auto, cpu or cuda:N
    #[arg(long, default_value = "auto")]
    device: String,
}

/// Best speed of several products of n x n matrices, in GFLOP/s.
fn peak(n: i64, kind: Kind, device: tch::Device) -> f64 {
    let m = Tensor::randn([n, n], (Kind::Float, device)).to_kind(kind);
    let once = || {
        let clock = Instant::now();
        let _ = m.matmul(&m).sum(Kind::Float).double_value(&[]);
        clock.elapsed().as_secs_f64()
    };
    let best = (0..4).map(|_| once()).fold(f64::INFINITY, f64::min);
    2.0 * (n as f64).powi(3) / best / 1e9
}

fn main() -> anyhow::Result<()> {
    keep_freed();
    let args = Args::parse();
    let changes = [
        format!("device={}", args.device),
        format!("bfloat16={}", args.bfloat16),
        format!("data.batch={}", args.batch),
        "model.dropout=0.0".into(),
        "loss.momentum=0.995".into(),
        format!("loss.queue={}", 16 * args.batch),
    ];
    let settings = Settings::read(&[&args.preset], None, &changes)?;
    let words = args.words as u32;
    let ids = SpecialIds { vocab_size: args.words, pad: 0, sep: words - 3, dec: words - 2, enc: words - 1 };
    let device = settings.device()?;
    let config = settings.config(&ids)?;
    let side = config.vision.image_size as i64;
    let mut trainer = Trainer::new(config, settings.step_options(0), 1, device)?;
    let pixels = Tensor::randn([args.batch, 3, side, side], (Kind::Float, device));
    let texts =
        Texts::new(Tensor::randint_low(1, i64::from(words) - 3, [args.batch, args.tokens], (Kind::Int64, device)), 0);
    let batch = Batch { pixels, texts, image_ids: (0..args.batch as u64).collect(), answers: None };
    let mut seconds = vec![];
    for step in 0..args.steps + 2 {
        let clock = Instant::now();
        // The step's report reads the losses, which waits for the device.
        trainer.step(&batch, 1e-4, 0.4)?;
        if step > 1 {
            seconds.push(clock.elapsed().as_secs_f64());
        }
    }
    seconds.sort_by(f64::total_cmp);
    let (best, median) = (seconds[0], seconds[seconds.len() / 2]);
    let figures = serde_json::json!({
        "preset": args.preset,
        "batch": args.batch,
        "tokens": args.tokens,
        "kind": if args.bfloat16 { "bfloat16" } else { "float32" },
        "device": format!("{device:?}"),
        "threads": tch::get_num_threads(),
        "seconds_a_step": best,
        "median": median,
        "images_a_second": args.batch as f64 / best,
        "best_product_gflops": peak(4096, if args.bfloat16 { Kind::BFloat16 } else { Kind::Float }, device),
    });
    std::io::Write::write_all(&mut std::io::stdout(), format!("{figures:#}\n").as_bytes())?;
    Ok(())
}
