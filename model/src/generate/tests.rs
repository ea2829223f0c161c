use super::*;
use crate::{BaseStorage, Pass, Sequences};
use std::path::Path;

fn model() -> Llama {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/fixtures/llama/gqa_f32");
    Llama::open(&folder, BaseStorage::Mapped).unwrap()
}

fn options(batch_size: usize) -> GenerateOptions {
    GenerateOptions {
        sampling: SamplingParams::GREEDY,
        max_new_tokens: 12,
        stop_ids: vec![],
        batch_size,
        seed: 5,
    }
}

fn prompts() -> Vec<Vec<u32>> {
    vec![vec![1, 5, 9, 33, 2], vec![7], vec![90, 3, 3, 3, 3, 3, 3, 3, 3, 41, 12], vec![2, 4, 6, 8]]
}

/// Greedy generation by running the whole sequence anew for every token.
fn without_cache(model: &Llama, prompt: &[u32], n: usize) -> Vec<u32> {
    let mut ids = prompt.to_vec();
    for _ in 0..n {
        let all = logits(model, &ids).unwrap().to_vec_f32().unwrap();
        let vocab = model.config().vocab_size;
        let last = &all[(ids.len() - 1) * vocab..];
        let best = (0..vocab).max_by(|a, b| last[*a].total_cmp(&last[*b])).unwrap();
        ids.push(best as u32);
    }
    ids.split_off(prompt.len())
}

#[test]
fn the_cache_gives_what_the_whole_forward_gives_in_any_batch() {
    let model = model();
    let prompts = prompts();
    for batch_size in [1, 3, 8] {
        let done = generate(&model, &prompts, &options(batch_size), &mut |_, _| true).unwrap();
        for (prompt, done) in prompts.iter().zip(done) {
            assert_eq!(done.ids, without_cache(&model, prompt, 12), "batch {batch_size}");
            assert_eq!(done.finish, Finish::Length);
        }
    }
}

#[test]
fn cached_hidden_states_equal_the_packed_forward() {
    let model = model();
    let ids: Vec<u32> = (0..20).map(|i| (i * 7 + 3) % 96).collect();
    let want = model.hidden(&Sequences::pack([&ids[..]]), &Pass::default()).unwrap();
    let want = model.logits(&want).unwrap().to_vec_f32().unwrap();
    let mut slot = Slot {
        prompt: 0,
        ids: vec![],
        prompt_len: 0,
        cache: KvCache::new(&medley_tensor::Device::Cpu, 2),
        sampler: Sampler::new(SamplingParams::GREEDY, 0, 0),
        constraint: None,
        limit: usize::MAX,
    };
    // Fed in pieces of 7, 1, 1, 11.
    for piece in [&ids[..7], &ids[7..8], &ids[8..9], &ids[9..]] {
        slot.ids.extend_from_slice(piece);
        let got = next_logits(&model, std::slice::from_mut(&mut slot)).unwrap();
        let at = (slot.ids.len() - 1) * 96;
        for (g, w) in got.iter().zip(&want[at..at + 96]) {
            assert!((g - w).abs() < 1e-4, "{g} {w}");
        }
    }
}

#[test]
fn sampling_does_not_depend_on_the_batch_and_stops() {
    let model = model();
    let prompts = prompts();
    let mut sampled = options(1);
    sampled.sampling = SamplingParams { do_sample: true, temperature: 1.5, ..SamplingParams::GREEDY };
    let run = |o: &GenerateOptions| -> Vec<Vec<u32>> {
        generate(&model, &prompts, o, &mut |_, _| true).unwrap().into_iter().map(|c| c.ids).collect()
    };
    let one = run(&sampled);
    assert_eq!(one, run(&GenerateOptions { batch_size: 4, ..sampled.clone() }));
    assert_ne!(one, run(&GenerateOptions { seed: 6, ..sampled.clone() }));

    let stop = one[0][3];
    let stopped =
        generate(&model, &prompts, &GenerateOptions { stop_ids: vec![stop], ..sampled }, &mut |_, _| true)
            .unwrap();
    let cut = one[0].iter().position(|id| *id == stop).unwrap();
    assert_eq!((stopped[0].ids.as_slice(), stopped[0].finish), (&one[0][..cut], Finish::Stop));

    let mut seen = 0;
    let cancelled = generate(&model, &prompts[..1], &options(1), &mut |_, _| {
        seen += 1;
        seen < 4
    });
    assert_eq!(cancelled.unwrap()[0].finish, Finish::Cancelled);
    assert_eq!(seen, 4);
    assert!(generate(&model, &[vec![]], &options(1), &mut |_, _| true).is_err());
}

/// The label that greedy choice among the labels' tokens gives, by whole forwards.
fn constrained_without_cache(model: &Llama, prompt: &[u32], labels: &[Vec<u32>], stop: u32) -> Vec<u32> {
    let mut reply: Vec<u32> = vec![];
    loop {
        let ids = [prompt, &reply].concat();
        let all = logits(model, &ids).unwrap().to_vec_f32().unwrap();
        let last = &all[(ids.len() - 1) * model.config().vocab_size..];
        let mut allowed: Vec<u32> = labels
            .iter()
            .filter(|label| label.starts_with(&reply))
            .map(|label| label.get(reply.len()).copied().unwrap_or(stop))
            .collect();
        allowed.sort();
        let best =
            allowed.iter().rev().max_by(|a, b| last[**a as usize].total_cmp(&last[**b as usize])).unwrap();
        if *best == stop {
            return reply;
        }
        reply.push(*best);
    }
}

#[test]
fn a_constrained_reply_is_the_greedy_label() {
    let model = model();
    let labels: Vec<Vec<u32>> =
        vec![vec![11, 12, 13], vec![11, 12], vec![11, 50, 51, 52], vec![40], vec![41, 42], vec![71, 3]];
    let trie = Arc::new(TokenTrie::new(labels.iter().map(Vec::as_slice)));
    let options = GenerateOptions { stop_ids: vec![0], ..options(3) };
    let ask: Vec<Prompt> = (0..24_u32)
        .map(|i| {
            let ids = (0..=i % 7).map(|j| (i * 13 + j * 5 + 1) % 96).collect();
            // Free prompts beside constrained ones, which no limit cuts.
            let constraint = (i % 4 != 3).then(|| trie.clone());
            Prompt { ids, constraint, max_new_tokens: Some(1) }
        })
        .collect();
    let (mut tokens, mut finished) = (0, 0);
    let done = generate_each(&model, &ask, &options, &mut |step| {
        match step {
            Step::Token { .. } => tokens += 1,
            Step::Done { .. } => finished += 1,
        }
        true
    })
    .unwrap();
    assert_eq!(finished, ask.len());
    assert_eq!(tokens, done.iter().map(|c| c.ids.len()).sum::<usize>());
    let mut chosen = std::collections::BTreeSet::new();
    for (ask, done) in ask.iter().zip(&done) {
        if ask.constraint.is_some() {
            assert_eq!(done.ids, constrained_without_cache(&model, &ask.ids, &labels, 0), "{:?}", ask.ids);
            assert_eq!(done.finish, Finish::Stop);
            chosen.insert(done.ids.clone());
        } else {
            assert!(done.ids.len() <= 1 && (done.finish == Finish::Length || done.ids.is_empty()));
        }
    }
    assert!(chosen.len() > 2, "{chosen:?}");

    // One label: nothing to ask the model for, whatever the prompt.
    let only = Arc::new(TokenTrie::new([&[9, 8, 7][..]]));
    let one = Prompt { ids: vec![5], constraint: Some(only), max_new_tokens: None };
    let done = generate_each(&model, &[one], &options, &mut |_| true).unwrap();
    assert_eq!((done[0].ids.as_slice(), done[0].finish), (&[9, 8, 7][..], Finish::Stop));
    let barred = Prompt { ids: vec![5], constraint: Some(Arc::default()), max_new_tokens: None };
    let error = generate_each(&model, &[barred], &options, &mut |_| true).unwrap_err().to_string();
    assert!(error.contains("allows no reply"), "{error}");
}

/// Prompts of several lengths in one batch on the simulated card, in f32: the CPU's tokens, and room for keys
/// and values that grows on the way.
#[test]
fn a_card_writes_what_the_cpu_writes() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/fixtures/llama/gqa_f32");
    let prompts: Vec<Vec<u32>> = vec![(3..25).collect(), vec![9], vec![7, 30, 2]];
    let on = |placement| {
        let model = Llama::open_on(&folder, BaseStorage::Mapped, placement).unwrap();
        let options = GenerateOptions { max_new_tokens: 60, ..options(3) };
        generate(&model, &prompts, &options, &mut |_, _| true).unwrap()
    };
    let device = medley_tensor::Device::open("sim").unwrap();
    let got = on(crate::Placement { device, compute: medley_tensor::DType::F32 });
    let want = on(crate::Placement::default());
    for (got, want) in got.iter().zip(&want) {
        assert_eq!(got.ids, want.ids);
    }
}
