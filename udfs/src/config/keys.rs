//! The settings under `capfilt.`.

use super::settings::Kind;
use crate::blip::generate::GenerationOptions;
use crate::config::settings::keys_of;

keys_of! {
    pub(crate) enum Key under "capfilt";
    Captioner "captioner": Kind::Text, default None,
        "Checkpoint of caption and captions: a folder in Hugging Face layout, or a registered name";
    Filter "filter": Kind::Text, default None,
        "Checkpoint of itm_score, itc_score, embed_image and embed_text: a folder in Hugging Face \
         layout, or a registered name";
    Answerer "answerer": Kind::Text, default None,
        "Checkpoint of vqa and vqa_score, on the CPU: a folder in Hugging Face layout (BlipForQuestionAnswering), or a \
         registered name";
    Device "device": Kind::Device, default Some("auto"),
        "Where models run; auto takes the first CUDA device where ONNX Runtime offers one, else the CPU. Several devices, \
         or cuda:all, share the work";
    Precision "precision": Kind::Choice(&["fp32", "fp16", "int8"]), default Some("fp32"),
        "fp32; on a GPU also fp16; on the CPU also int8: quantised weights, activations quantised per row";
    ItmToken "itm_token": Kind::Choice(&["enc", "cls"]), default Some("enc"),
        "First token of a text that is matched with an image: enc as BLIP was trained, cls as transformers does";
    QuestionToken "question_token": Kind::Choice(&["enc", "cls"]), default None,
        "First token of a question: enc as BLIP was trained, cls as transformers does. Unset: enc";
    ItcGate "itc_gate": Kind::Gate, default None,
        "LOW,HIGH: itm_score(..) >= x is false for a text whose itc_score is below LOW, and true from HIGH on; \
         itm_score is computed only between them. off, or unset, for none";
    MaxTextTokens "max_text_tokens": Kind::Integer { min: 2, max: 512 }, default Some("35"),
        "Longest text of itm_score, itc_score and embed_text, and longest question, in tokens, first and last one counted; \
         longer ones are cut";
    CleanText "clean_text": Kind::Flag, default Some("off"),
        "Whether texts go through BLIP's pre_caption first: lower case, no punctuation, at most 30 words";
    CleanQuestion "clean_question": Kind::Flag, default None,
        "Whether questions go through BLIP's pre_question first: lower case, without . ! \" ( ) * # : ; ~, at most 50 words. \
         Unset: on";
    Threads "threads": Kind::Integer { min: 0, max: 1024 }, default Some("0"),
        "CPU threads of a model; 0 is one per core";
    MaxBatchImages "max_batch_images": Kind::Integer { min: 1, max: 1024 }, default None,
        "Most images in one run of a model. All runs on a GPU have as many, or the largest power of two that fits into its \
         memory. Unset: 8 on the CPU, 64 on a GPU";
    MemoryLimit "memory_limit": Kind::Size { min: 0 }, default None,
        "Most memory for weights, caches and work together; idle models leave first. Of the engine, not the session. \
         Unset: three fifths of the machine's or container's";
    DeviceMemory "device_memory": Kind::Size { min: 0 }, default None,
        "Most memory of each GPU for weights, cached images and work together. Unset: what is free on it before its first \
         model";
    MemoLimit "memo_limit": Kind::Size { min: 0 }, default None,
        "Most memory for remembered results; of the engine, not the session. Unset: 64 MiB";
    MaxImageBytes "max_image_bytes": Kind::Size { min: 0 }, default Some("64MiB"),
        "Largest encoded image that is decoded; a larger one is a bad image";
    MaxImagePixels "max_image_pixels": Kind::Integer { min: 1, max: 1 << 32 }, default Some("178956970"),
        "Most pixels (width times height) of an image that is decoded; one with more is a bad image";
    OnError "on_error": Kind::Choice(&["null", "fail"]), default Some("null"),
        "What a bad image gives: null, or fail: the query stops";
    Seed "seed": Kind::Integer { min: 0, max: u64::MAX }, default Some("0"),
        "Seed of sampled captions and answers; each image and candidate draws from its own";
    Strategy "strategy": Kind::Choice(&["beam", "greedy", "nucleus"]), default None,
        "How the tokens of a caption or an answer are chosen";
    NumBeams "num_beams": Kind::Integer { min: 1, max: GenerationOptions::MAX_BEAMS as u64 }, default None,
        "Beams of beam search";
    TopK "top_k": Kind::Integer { min: 0, max: u64::MAX }, default None,
        "How many of the likeliest tokens nucleus sampling draws from, before top_p; 0 is all of them";
    TopP "top_p": Kind::Float { above_zero: true, max: 1.0 }, default None,
        "Probability mass that nucleus sampling draws from";
    Temperature "temperature": Kind::Float { above_zero: true, max: f32::MAX }, default None,
        "Divides the logits before nucleus sampling";
    MinLength "min_length": Kind::Integer { min: 0, max: 512 }, default None,
        "Shortest caption or answer in tokens, [DEC] and prompt counted";
    MaxLength "max_length": Kind::Integer { min: 1, max: 512 }, default None,
        "Longest caption or answer in tokens, [DEC] and prompt counted";
    LengthPenalty "length_penalty": Kind::Float { above_zero: false, max: f32::MAX }, default None,
        "Exponent of the generated length that divides a beam's score; above 0 favours long captions";
    RepetitionPenalty "repetition_penalty": Kind::Float { above_zero: true, max: f32::MAX }, default None,
        "Divides the score of a token that occurred; 1 leaves it as it is";
    EarlyStopping "early_stopping": Kind::Flag, default None,
        "Whether beam search stops as soon as num_beams captions or answers ended";
    Prompt "prompt": Kind::Text, default None,
        "Text the caption continues; it is not part of the result";
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::settings::SettingKey as _;

    #[test]
    fn the_table_is_sound() {
        for (i, setting) in Key::ALL.iter().enumerate() {
            assert_eq!(setting.key.index(), i);
            if let Some(default) = setting.default {
                assert!(setting.kind.parse(default).is_some(), "{}", setting.name);
            }
        }
    }
}
