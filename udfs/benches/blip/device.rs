//! A device apart from the host: parity with the CPU on the fixtures' models, then pairs per second at BLIP-base's size.
//!
//! `--device cuda:0` needs no compiler and no file but the fixtures; `make gpu-check` runs it. `--device fake` checks on
//! the CPU, kept apart as a GPU is, and its speeds mean nothing.

use std::path::Path;
use std::sync::Arc;

use capfilt_udfs::blip::generate::{GenerationOptions, Strategy};
use capfilt_udfs::blip::{Checkpoint, Embedding, GenerateRequest, Med, OrtMed, Precision, Room};
use capfilt_udfs::image::{Limits, load};

use crate::checkpoint::{DEC, Normal, Pair};
use crate::model::{beams, framed, random_text};
use crate::report::Report;
use crate::{REPEATS, Result, Timing, root};

const PRECISIONS: [Precision; 2] = [Precision::Fp32, Precision::Fp16];

/// Texts that each picture of the fixtures is matched with.
const TEXTS: [&str; 4] = ["a red apple", "two dogs on a beach", "a map", "a black and white drawing of a house"];

/// Runs everything. Fails if the device disagrees with the CPU.
pub(crate) fn check(device: &str, out: &Path, quick: bool, threads: usize, report: &mut Report) -> Result<()> {
    for precision in PRECISIONS {
        parity(device, precision, threads, report)?;
    }
    let pair = Pair::base(out, quick)?;
    for precision in PRECISIONS {
        for images in if quick { [2, 4] } else { [64, 256] } {
            speed(&pair, device, precision, images, report)?;
        }
    }
    Ok(())
}

fn open(dir: &Path, device: &str, precision: Precision, images: usize) -> Result<OrtMed> {
    let checkpoint = Arc::new(Checkpoint::open(dir)?);
    Ok(match device {
        "fake" => OrtMed::on_fake_device(checkpoint, precision, images, 0)?,
        _ => OrtMed::in_room(checkpoint, device, precision, 0, Room { memory: None, images: Some(images) })?,
    })
}

/// Captions and scores of the fixtures' pictures.
struct Results {
    captions: Vec<Vec<Vec<u32>>>,
    itm: Vec<f32>,
    itc: Vec<f32>,
}

impl Results {
    fn of(captioner: &OrtMed, filter: &OrtMed) -> Result<Self> {
        let mut files = vec![];
        for entry in std::fs::read_dir(root().join("tests/fixtures/images"))? {
            files.push(entry?.path());
        }
        files.sort();
        let encode = |med: &OrtMed| -> Result<Vec<Embedding>> {
            let read = |path| Ok(load(&std::fs::read(path)?, &Limits::default(), med.preprocessor())?);
            let pixels = files.iter().map(read).collect::<Result<Vec<Vec<u8>>>>()?;
            Ok(med.encode(&pixels.iter().map(Vec::as_slice).collect::<Vec<_>>())?)
        };
        let images = encode(captioner)?;
        let images: Vec<&Embedding> = images.iter().collect();
        let request = GenerateRequest { prompt: captioner.tokenizer().caption_prompt(""), key: [0; 32] };
        let requests = vec![vec![request]; images.len()];
        let mut captions = vec![];
        for strategy in [Strategy::Beam, Strategy::Greedy] {
            let options = GenerationOptions { strategy, ..GenerationOptions::default() };
            captions.extend(captioner.generate(&images, &requests, &options, &|| false)?);
        }
        let images = encode(filter)?;
        let images: Vec<&Embedding> = images.iter().collect();
        let ids: Vec<_> = TEXTS.iter().map(|text| filter.tokenizer().match_ids(text, 35, Default::default())).collect();
        let texts: Vec<Vec<&[u32]>> = vec![ids.iter().map(|ids| &**ids).collect(); images.len()];
        let itm = filter.match_texts(&images, &texts)?.concat();
        let itc = filter.project(&images)?.concat();
        Ok(Self { captions, itm, itc })
    }
}

fn parity(device: &str, precision: Precision, threads: usize, report: &mut Report) -> Result<()> {
    let model = |name: &str| root().join("tests/fixtures/models").join(name);
    let here = |name: &str| -> Result<OrtMed> {
        Ok(OrtMed::new(Arc::new(Checkpoint::open(&model(name))?), "cpu", Precision::Fp32, threads)?)
    };
    let there = |name: &str| open(&model(name), device, precision, 16);
    let expected = Results::of(&here("captioner")?, &here("matcher")?)?;
    let found = Results::of(&there("captioner")?, &there("matcher")?)?;
    let equal = expected.captions.iter().zip(&found.captions).filter(|(a, b)| a == b).count();
    let worst = |a: &[f32], b: &[f32]| a.iter().zip(b).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
    let (itm, itc) = (worst(&expected.itm, &found.itm), worst(&expected.itc, &found.itc));
    let verdicts = expected.itm.iter().zip(&found.itm).filter(|(a, b)| (**a >= 0.5) == (**b >= 0.5)).count();
    let (captions, scores) = (expected.captions.len(), expected.itm.len());
    report.line(&format!(
        "{device} {precision} beside the CPU's fp32: {equal} of {captions} captions equal, {verdicts} of {scores} verdicts, \
         largest change of ITM {itm:.1e}, of ITC {itc:.1e}"
    ))?;
    let (least, most) = if precision == Precision::Fp32 { (0.97, 1e-3) } else { (0.9, 5e-3) };
    let is_near = equal as f64 >= least * captions as f64 && itm < most && itc < most;
    match is_near && verdicts * 100 >= 99 * scores {
        true => Ok(()),
        false => Err(format!("{device} in {precision} does not give what the CPU gives").into()),
    }
}

/// Times CapFilt on images: a caption, and the scores of it and of a web text.
fn speed(pair: &Pair, device: &str, precision: Precision, images: usize, report: &mut Report) -> Result<()> {
    let captioner = open(&pair.captioner, device, precision, images)?;
    let filter = open(&pair.filter, device, precision, images)?;
    let mut random = Normal::new(5);
    let each = 3 * pair.shape.image_size.pow(2);
    let pixels: Vec<Vec<u8>> = (0..images).map(|_| (0..each).map(|_| random.bits() as u8).collect()).collect();
    let pixels: Vec<&[u8]> = pixels.iter().map(Vec::as_slice).collect();
    let web: Vec<Vec<u32>> = (0..images).map(|_| random_text(&mut random)).collect();
    let request = GenerateRequest { prompt: Arc::from([DEC]), key: [0; 32] };
    let requests = vec![vec![request]; images];
    let beams = beams();
    let run = || -> Result<()> {
        let encoded = captioner.encode(&pixels)?;
        let captions = captioner.generate(&encoded.iter().collect::<Vec<_>>(), &requests, &beams, &|| false)?;
        let synthetic: Vec<Vec<u32>> = captions.iter().map(|caption| framed(&caption[0])).collect();
        let texts: Vec<Vec<&[u32]>> = web.iter().zip(&synthetic).map(|(web, own)| vec![&**web, own]).collect();
        let encoded = filter.encode(&pixels)?;
        let scores = filter.match_texts(&encoded.iter().collect::<Vec<_>>(), &texts)?;
        if scores.concat().iter().all(|score| score.is_finite()) { Ok(()) } else { Err("a score is not finite".into()) }
    };
    run()?;
    let time = Timing::of(REPEATS, run)?;
    let step = captioner.crossed().get("the text decoder").map_or(0, |crossed| crossed.most);
    report.line(&format!(
        "{device} {precision}, {} images a run: {:.1} pairs/s; {step} bytes between host and device in a decoding step",
        captioner.run_images(),
        images as f64 / time.min()
    ))
}
