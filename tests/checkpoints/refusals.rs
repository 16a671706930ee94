//! Folders that look like a checkpoint but are not: the error names what they are and what to do.

use std::fs;
use std::path::Path;

use capfilt_udfs::blip::{checkpoint_dir, inspect};
use safetensors::Dtype;
use serde_json::json;
use tempfile::TempDir;

use super::{Tensors, failure, folder, read, save, written};
use crate::common::model;

fn says(dir: &Path, words: &[&str]) {
    let message = failure(dir);
    assert!(words.iter().all(|word| message.contains(word)), "{words:?}: {message}");
}

fn renamed(to: impl Fn(&str) -> String) -> TempDir {
    let tensors: Tensors = read("captioner").into_iter().map(|(name, tensor)| (to(&name), tensor)).collect();
    written("captioner", &tensors, Dtype::F16)
}

#[test]
fn adapters_are_to_be_merged() {
    // Files of peft's save_pretrained, with and without the model's config.json.
    let adapter =
        json!({ "base_model_name_or_path": "Salesforce/blip-image-captioning-base", "peft_type": "LORA", "r": 16 });
    let lora = "base_model.model.text_decoder.bert.encoder.layer.0.attention.self.query.lora_A.weight".to_string();
    for dir in [tempfile::tempdir().unwrap(), folder("captioner", |_| ())] {
        fs::write(dir.path().join("adapter_config.json"), adapter.to_string()).unwrap();
        let tensors = Tensors::from([(lora.clone(), (vec![16, 128], vec![0.0; 16 * 128]))]);
        save(&dir.path().join("adapter_model.safetensors"), &tensors, Dtype::F32);
        says(dir.path(), &["adapter_config.json", "merge_and_unload", "save_pretrained", "blip-image-captioning-base"]);
    }
    // A merged model saved over its adapter is a valid checkpoint.
    let merged = written("captioner", &read("captioner"), Dtype::F16);
    fs::write(merged.path().join("adapter_config.json"), adapter.to_string()).unwrap();
    inspect(merged.path()).unwrap();

    let wrapped = renamed(|name| format!("base_model.model.{name}"));
    says(wrapped.path(), &["base_model.model.", "merge_and_unload", "save_pretrained"]);
    let unmerged = renamed(|name| name.replace("self.query.weight", "self.query.base_layer.weight"));
    says(unmerged.path(), &["base_layer", "merge_and_unload"]);
}

#[test]
fn wrapped_models_and_blips_own_names_are_told_apart() {
    for prefix in ["module.", "_orig_mod.", "model.blip."] {
        says(renamed(|name| format!("{prefix}{name}")).path(), &[prefix, "inside the wrapper"]);
    }
    let own = renamed(|name| name.replace("vision_model.encoder.layers.", "visual_encoder.blocks."));
    says(own.path(), &["visual_encoder.blocks.", "capfilt model convert"]);
}

#[test]
fn pickles_say_where_safetensors_are() {
    let salesforce = ["capfilt model convert", "hf:Salesforce/blip-itm-base-coco", "pickle"];
    for name in ["pytorch_model.bin", "pytorch_model-00001-of-00002.bin", "model_base_capfilt_large.pth", "last.ckpt"] {
        for dir in [tempfile::tempdir().unwrap(), folder("captioner", |_| ())] {
            fs::write(dir.path().join("training_args.bin"), b"PK\x03\x04").unwrap();
            fs::write(dir.path().join(name), b"PK\x03\x04").unwrap();
            says(dir.path(), &[&salesforce[..], &[name]].concat());
        }
    }
    let dir = folder("captioner", |_| ());
    let file = dir.path().join("model.safetensors");
    for bytes in [&b"PK\x03\x04\0\0\0\0"[..], b"\x80\x02}q\0X\x04\0\0\0"] {
        fs::write(&file, bytes).unwrap();
        says(dir.path(), &[&salesforce[..], &["model.safetensors"]].concat());
    }
    fs::remove_file(file).unwrap();
    fs::write(dir.path().join("tf_model.h5"), b"\x89HDF").unwrap();
    says(dir.path(), &["tf_model.h5", "TensorFlow", "neither model.safetensors"]);
}

#[test]
fn files_that_are_not_what_their_name_says() {
    let pointer = "version https://git-lfs.github.com/spec/v1\noid sha256:d6638651a5526cc2ede56f2b5104d6851b0755816d220e5e046870430180c767\n\
                   size 989820849\n";
    let page = "<!DOCTYPE html>\n<html><head><title>Sign in</title></head></html>";
    for name in ["config.json", "preprocessor_config.json", "tokenizer.json", "model.safetensors"] {
        let dir = folder("captioner", |_| ());
        fs::copy(Path::new(&model("captioner")).join("model.safetensors"), dir.path().join("model.safetensors"))
            .unwrap();
        let path = dir.path().join(name);
        for (text, words) in [(pointer, ["git lfs pull", "pointer"]), (page, ["web page", "again"])] {
            fs::write(&path, text).unwrap();
            says(dir.path(), &[&words[..], &[name]].concat());
        }
        fs::write(&path, [0xff, 0xfe, 0x00]).unwrap();
        says(dir.path(), &[name]);
        fs::remove_file(&path).unwrap();
        fs::create_dir(&path).unwrap();
        says(dir.path(), &[name, if name == "model.safetensors" { "a folder" } else { "directory" }]);
    }
    // A repository's name or a file given instead of a folder.
    let message = checkpoint_dir("Salesforce/blip-itm-base-coco").unwrap_err().to_string();
    assert!(message.contains("named hf:Salesforce/blip-itm-base-coco"), "{message}");
    assert!(!checkpoint_dir("./models/blip").unwrap_err().to_string().contains("hf:"));
    says(&Path::new(&model("captioner")).join("model.safetensors"), &["it is a file", "give the folder"]);
}

#[test]
fn unfinished_and_renamed_weights_are_named() {
    let dir = folder("captioner", |_| ());
    save(&dir.path().join("model.fp16.safetensors"), &read("captioner"), Dtype::F16);
    says(dir.path(), &["model.fp16.safetensors", "give it that name"]);
    // Files that the hub's client leaves in a plain folder.
    let downloads = dir.path().join(".cache/huggingface/download");
    fs::create_dir_all(&downloads).unwrap();
    fs::write(downloads.join("xGOKKLRSlIhH692hSVvI1-gpoa8=.d6638651.incomplete"), b"").unwrap();
    says(dir.path(), &[".incomplete", "fetch the checkpoint again"]);
    // A folder of checkpoints, as written by transformers' Trainer.
    let runs = tempfile::tempdir().unwrap();
    for step in [500, 1000] {
        let checkpoint = runs.path().join(format!("checkpoint-{step}"));
        fs::create_dir(&checkpoint).unwrap();
        fs::write(checkpoint.join("config.json"), "{}").unwrap();
    }
    says(runs.path(), &["checkpoint-1000", "checkpoint-500", "give one of them"]);
}
