//! Which files of a repository a checkpoint needs.

use std::collections::BTreeSet;

/// Files of every checkpoint, in the order in which they are fetched.
const SMALL: [&str; 8] = [
    "config.json",
    "generation_config.json",
    "preprocessor_config.json",
    "processor_config.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "vocab.txt",
];

/// Files of a repository that a checkpoint needs; the weights come last, so that they are there only if all is.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Wanted {
    /// Small files, and weights as safetensors.
    Safetensors(Vec<String>),
    /// Small files, and weights as a pickle, since there are no others. Loading a pickle may run any program.
    PickleAlone(Vec<String>),
    /// No weights, or not all of their shards.
    Nothing,
}

/// Chooses from the files of a repository those that a checkpoint needs.
pub fn wanted(files: &[String]) -> Wanted {
    let has = |name: &str| files.iter().any(|file| file == name);
    let with_small = |weights: Vec<String>| {
        let small = SMALL.into_iter().filter(|name| has(name)).map(str::to_owned);
        small.chain(weights).collect()
    };
    if let Some(weights) = weights(files, "model", "safetensors") {
        Wanted::Safetensors(with_small(weights))
    } else if let Some(weights) = weights(files, "pytorch_model", "bin") {
        Wanted::PickleAlone(with_small(weights))
    } else {
        Wanted::Nothing
    }
}

/// Single file of weights, or their index and all of its shards `STEM-00001-of-0000N.SUFFIX`.
fn weights(files: &[String], stem: &str, suffix: &str) -> Option<Vec<String>> {
    let has = |name: &String| files.contains(name);
    let single = format!("{stem}.{suffix}");
    if has(&single) {
        return Some(vec![single]);
    }
    let index = format!("{stem}.{suffix}.index.json");
    let of = |file: &String| {
        let (_, count) = file.strip_prefix(stem)?.strip_suffix(suffix)?.strip_suffix('.')?.split_once("-of-")?;
        // Before any is made: a name may claim billions.
        count.parse().ok().filter(|count| (1..=files.len()).contains(count))
    };
    let all: BTreeSet<&String> = files.iter().collect();
    let whole = |count: usize| {
        let shards: Vec<_> = (1..=count).map(|n| format!("{stem}-{n:05}-of-{count:05}.{suffix}")).collect();
        shards.iter().all(|shard| all.contains(shard)).then_some(shards)
    };
    let counts: BTreeSet<usize> = files.iter().filter_map(of).collect();
    let shards = has(&index).then(|| counts.into_iter().find_map(whole))??;
    Some([index].into_iter().chain(shards).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn files(names: &[&str]) -> Vec<String> {
        names.iter().map(|&name| name.to_owned()).collect()
    }

    #[test]
    fn safetensors_come_before_everything_else() {
        let listing = [".gitattributes", "README.md", "config.json", "model.safetensors", "preprocessor_config.json"];
        let more = ["pytorch_model.bin", "special_tokens_map.json", "tf_model.h5", "tokenizer.json", "vocab.txt"];
        let found = wanted(&files(&[&listing[..], &more[..]].concat()));
        let expected =
            ["config.json", "preprocessor_config.json", "tokenizer.json", "special_tokens_map.json", "vocab.txt"];
        assert_eq!(found, Wanted::Safetensors(files(&[&expected[..], &["model.safetensors"]].concat())));
    }

    #[test]
    fn a_pickle_alone_is_told_apart() {
        let listing = files(&["config.json", "pytorch_model.bin", "tf_model.h5", "vocab.txt"]);
        assert_eq!(wanted(&listing), Wanted::PickleAlone(files(&["config.json", "vocab.txt", "pytorch_model.bin"])));
        assert_eq!(wanted(&files(&["config.json", "tf_model.h5", "sub/model.safetensors"])), Wanted::Nothing);
    }

    #[test]
    fn shards_count_only_if_all_are_there() {
        let index = "model.safetensors.index.json";
        let (one, two) = ("model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors");
        assert_eq!(wanted(&files(&[two, index, one])), Wanted::Safetensors(files(&[index, one, two])));
        for broken in [&[index, one][..], &[one, two], &[index], &[index, "model-00001-of-99999999999.safetensors"]] {
            assert_eq!(wanted(&files(broken)), Wanted::Nothing, "{broken:?}");
        }
        let pickle = ["pytorch_model.bin.index.json", "pytorch_model-00001-of-00001.bin"];
        assert_eq!(wanted(&files(&pickle)), Wanted::PickleAlone(files(&pickle)));
    }
}
