use super::*;

fn text(i: usize) -> Bytes {
    Bytes::from(i.to_string())
}

fn numbered(count: usize) -> List {
    (0..count).map(text).collect()
}

/// The chunks add up, and there are not many more than the length asks for.
fn check(list: &List, model: &VecDeque<Bytes>, context: &str) {
    assert_eq!(list.len(), model.len(), "{context}");
    assert!(list.iter().eq(model), "{context}");
    assert!(list.iter().rev().eq(model.iter().rev()), "{context}");
    let lens: Vec<usize> = list.chunks.iter().map(|chunk| chunk.len()).collect();
    assert_eq!(lens.iter().sum::<usize>(), list.len, "{context}");
    assert!(lens.iter().all(|len| (1..=CHUNK).contains(len)), "{lens:?}");
    let longest = model.iter().map(|value| value.len()).max();
    assert!(list.longest() >= longest.unwrap_or(0), "{context}");
}

#[test]
fn random_edits_agree_with_a_deque() {
    let seed = match std::env::var("LATCHWORK_SEED") {
        Ok(seed) => seed.parse().expect("LATCHWORK_SEED is a number"),
        Err(_) => fastrand::u64(..),
    };
    println!("seed {seed}: set LATCHWORK_SEED to repeat");
    let mut random = fastrand::Rng::with_seed(seed);
    let (mut list, mut model) = (List::new(), VecDeque::new());
    let mut snapshots: VecDeque<(List, VecDeque<Bytes>)> = VecDeque::new();
    for step in 0..30_000 {
        // Long for a while, then short for a while: all of the edits see both.
        let grows = step / 3000 % 2 == 0;
        let end = if random.bool() {
            ListEnd::Front
        } else {
            ListEnd::Back
        };
        let index = random.usize(0..model.len() + 2);
        let value = text(random.usize(0..30));
        let context = format!("seed {seed}, step {step}");
        match random.u32(0..20) {
            0..8 if grows => {
                let values = vec![value.clone(); random.usize(1..20)];
                for value in &values {
                    match end {
                        ListEnd::Front => model.push_front(value.clone()),
                        ListEnd::Back => model.push_back(value.clone()),
                    }
                }
                let values = &values[..];
                ListEdit::Push { end, values }.apply_to(&mut list);
            }
            0..8 => {
                let count = random.usize(0..20);
                for _ in 0..count {
                    match end {
                        ListEnd::Front => model.pop_front(),
                        ListEnd::Back => model.pop_back(),
                    };
                }
                ListEdit::Pop { end, count }.apply_to(&mut list);
            }
            8 | 9 => {
                let popped = match end {
                    ListEnd::Front => model.pop_front(),
                    ListEnd::Back => model.pop_back(),
                };
                assert_eq!(list.pop(end), popped, "{context}");
            }
            10..13 => {
                model.insert(index.min(model.len()), value.clone());
                list.insert(index, value);
            }
            13 | 14 => {
                let old = model
                    .get_mut(index)
                    .map(|old| std::mem::replace(old, value.clone()));
                assert_eq!(list.set(index, value), old, "{context}");
            }
            15 => {
                let limit = random.usize(1..8);
                let mut removed = 0;
                while removed < limit {
                    let found = match end {
                        ListEnd::Front => model.iter().position(|v| *v == value),
                        ListEnd::Back => model.iter().rposition(|v| *v == value),
                    };
                    let Some(found) = found else { break };
                    model.remove(found);
                    removed += 1;
                }
                assert_eq!(list.remove(end, limit, &value), removed, "{context}");
            }
            16 if random.u32(0..50) == 0 => {
                model.retain(|v| *v != value);
                list.remove(end, usize::MAX, &value);
            }
            16 if random.u32(0..100) == 0 => {
                let stop = random.usize(0..model.len() + 9);
                model.truncate(stop);
                model.drain(..index.min(model.len()));
                list.trim(index..stop);
            }
            17 => {
                let stop = random.usize(0..model.len() + 2);
                let from = index.min(model.len());
                let to = stop.clamp(from, model.len().max(from));
                assert!(
                    list.range(index..stop).eq(model.range(from..to)),
                    "{context}"
                );
                let back = model.range(from..to).rev();
                assert!(list.range(index..stop).rev().eq(back), "{context}");
                assert_eq!(list.get(index), model.get(index), "{context}");
                assert_eq!(
                    list.peek(end),
                    match end {
                        ListEnd::Front => model.front(),
                        ListEnd::Back => model.back(),
                    }
                );
            }
            18 => {
                snapshots.push_back((list.clone(), model.clone()));
                if snapshots.len() > 3 {
                    let (list, model) = snapshots.pop_front().unwrap();
                    check(&list, &model, &context);
                }
            }
            _ => {
                ListEdit::Rotate {
                    from: end,
                    to: ListEnd::Front,
                }
                .apply_to(&mut list);
                let moved = match end {
                    ListEnd::Front => model.pop_front(),
                    ListEnd::Back => model.pop_back(),
                };
                moved.into_iter().for_each(|value| model.push_front(value));
            }
        }
        if step % 50 == 0 {
            check(&list, &model, &context);
        }
    }
    check(&list, &model, "at the end");
}

#[test]
fn a_snapshot_shares_every_chunk_but_the_one_that_changes() {
    let mut list = numbered(10 * CHUNK);
    let snapshot = list.clone();
    list.push(ListEnd::Back, "x");
    list.pop(ListEnd::Front);
    let shared = snapshot
        .chunks
        .iter()
        .filter(|chunk| Arc::strong_count(chunk) == 2);
    assert_eq!(shared.count(), 9);
    assert_eq!(snapshot.len(), 10 * CHUNK);
}

#[test]
fn thinned_out_chunks_are_merged() {
    let mut list: List = (0..100 * CHUNK)
        .map(|i| if i % 16 == 0 { "keep" } else { "drop" })
        .collect();
    assert_eq!(
        list.remove(ListEnd::Front, usize::MAX, b"drop"),
        94 * CHUNK - CHUNK / 4
    );
    assert!(
        list.chunks.len() <= list.len() / (MERGED / 2),
        "{} chunks",
        list.chunks.len()
    );
}

#[test]
fn a_long_list_that_was_popped_gives_its_memory_back() {
    let mut list = numbered(1000 * CHUNK);
    while list.len() > 1 {
        list.pop(ListEnd::Front);
    }
    assert!(list.chunks.capacity() <= 128, "{}", list.chunks.capacity());
}

#[test]
fn an_edit_near_an_end_is_cheap_and_one_of_many_elements_is_not() {
    let list = numbered(1000 * CHUNK);
    let (end, value) = (ListEnd::Back, &text(0));
    let cost = |edit: ListEdit<'_>| edit.cost(&list, false);
    assert_eq!(cost(ListEdit::Pop { end, count: 1 }), 1);
    assert_eq!(cost(ListEdit::Set { index: 3, value }), 3);
    assert!(
        cost(ListEdit::Set {
            index: 500 * CHUNK,
            value
        }) >= 500
    );
    assert!(cost(ListEdit::Trim { start: 0, end: 10 }) > 900 * CHUNK);
    assert!(
        cost(ListEdit::Remove {
            end,
            limit: 1,
            value: b"0"
        }) >= 1000 * CHUNK
    );
    assert!(ListEdit::Pop { end, count: 1 }.cost(&list, true) > 1000);
}

#[test]
fn a_long_list_is_shown_by_its_first_elements() {
    let shown = format!("{:?}", numbered(100));
    assert!(shown.starts_with(r#"[b"0", b"1", "#), "{shown}");
    assert!(shown.ends_with(r#"b"15"]… (100 elements)"#), "{shown}");
}
