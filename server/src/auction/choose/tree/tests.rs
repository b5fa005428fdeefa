//! Dynamic programming against trying everything.

use super::*;
use crate::plans::{Element, Format};
use proptest::prelude::*;
use std::collections::BTreeMap;

fn creative(elements: BTreeMap<Id, Element>) -> Creative {
    Creative {
        id: Id::from("c"),
        plan: Id::from("p"),
        item: None,
        attributes: vec![],
        language: None,
        elements,
        format: Format::Banner { w: 300, h: 250, image_url: "https://i.example/x.png".into() },
    }
}

fn element(part: Part, value: &str, under: &[String]) -> Element {
    Element { part, value: value.into(), under: under.iter().map(|id| Id::from(id.as_str())).collect() }
}

/// Every choice of one element for each part, valid or not, from the record alone.
fn everything(creative: &Creative) -> Vec<Vec<Id>> {
    let mut parts: BTreeMap<Part, Vec<Id>> = BTreeMap::new();
    for (id, element) in &creative.elements {
        parts.entry(element.part).or_default().push(id.clone());
    }
    parts.values().fold(vec![Vec::new()], |all, ids| {
        all.iter().flat_map(|one| ids.iter().map(|id| [one.as_slice(), std::slice::from_ref(id)].concat())).collect()
    })
}

fn valid(creative: &Creative, chosen: &[Id]) -> bool {
    chosen.iter().all(|id| {
        let under = &creative.elements[id].under;
        under.is_empty() || under.iter().any(|parent| chosen.contains(parent))
    })
}

/// Number of parts, their sizes, a parent for each among the earlier ones, and bits that say which pairs are allowed.
fn any_creative() -> impl Strategy<Value = Creative> {
    let part = (1usize..5, any::<u16>(), any::<u64>());
    proptest::collection::vec(part, 1..5).prop_map(|parts| {
        let kinds = [Part::Title, Part::Text, Part::Cta, Part::Badge];
        let mut elements = BTreeMap::new();
        for (number, (size, parent, pairs)) in parts.iter().enumerate() {
            for at in 0..*size {
                let mut under = Vec::new();
                // One part in two hangs below an earlier one.
                if number > 0 && parent % 2 == 0 {
                    let above = usize::from(*parent / 2) % number;
                    for other in 0..parts[above].0 {
                        if pairs >> (at * 8 + other) & 1 == 1 {
                            under.push(format!("{above}-{other}"));
                        }
                    }
                }
                elements.insert(Id::from(&*format!("{number}-{at}")), element(kinds[number], "text", &under));
            }
        }
        creative(elements)
    })
}

fn weight_of(seed: u64, key: u64) -> f64 {
    f64::from(u32::try_from(super::super::features::mix(seed ^ key) >> 40).unwrap()) / 1e7 - 0.8
}

/// The record's value of a choice: its elements and the pairs that the record names.
fn value(creative: &Creative, tree: &Tree, chosen: &[Id], seed: u64) -> f64 {
    let node = |id: &Id| tree.nodes.iter().position(|node| node.id == *id).unwrap();
    let mut sum = 0.0;
    for id in chosen {
        sum += weight_of(seed, tree.nodes[node(id)].key);
        for parent in creative.elements[id].under.iter().filter(|parent| chosen.contains(parent)) {
            let own = &tree.nodes[node(id)];
            let pair = tree.pairs[own.pairs.clone()].iter().find(|pair| pair.parent == node(parent)).unwrap();
            sum += weight_of(seed, pair.key);
        }
    }
    sum
}

proptest! {
    #[test]
    fn the_best_composition_is_the_best_of_all(creative in any_creative(), seed: u64, barred: u64) {
        let all: Vec<Vec<Id>> = everything(&creative).into_iter().filter(|chosen| valid(&creative, chosen)).collect();
        let tree = match Tree::compile(&creative) {
            Ok(tree) => tree.unwrap(),
            Err(error) => {
                // Refused are creatives that cannot be composed, and elements that never could be shown.
                let shown = |id: &Id| all.iter().any(|chosen| chosen.contains(id));
                prop_assert!(all.is_empty() || !creative.elements.keys().all(shown), "{error}");
                return Ok(());
            }
        };
        let nodes: Vec<f64> = tree.nodes.iter().map(|node| weight_of(seed, node.key)).collect();
        let mut asked = 0;
        let allowed = !(barred & barred.rotate_left(7));
        let pair = |pair: Pair| { asked += 1; weight_of(seed, pair.key) };
        let found = tree.best(Weights { nodes: &nodes, allowed, pair });
        prop_assert!(asked <= tree.pairs.len(), "each pair is looked at once");
        let open = |id: &Id| allowed >> tree.nodes.iter().position(|node| node.id == *id).unwrap() & 1 == 1;
        let best = all.iter().filter(|chosen| chosen.iter().all(open)).map(|chosen| value(&creative, &tree, chosen, seed));
        let best = best.max_by(f64::total_cmp);
        prop_assert_eq!(found.is_some(), best.is_some());
        let (Some((composition, total)), Some(best)) = (found, best) else { return Ok(()) };
        let chosen: Vec<Id> = tree.elements(&composition).cloned().collect();
        prop_assert!(valid(&creative, &chosen) && chosen.iter().all(open));
        prop_assert!((total - best).abs() < 1e-9 && (value(&creative, &tree, &chosen, seed) - best).abs() < 1e-9);
        let mut text = String::new();
        tree.write(&composition, &mut text);
        prop_assert_eq!(tree.read(&text), composition);
    }
}

#[test]
fn faults_name_the_element_and_the_rule() {
    let fault = |elements: &[(&str, Part, &[&str])]| {
        let elements = elements.iter().map(|(id, part, under)| {
            let under: Vec<String> = under.iter().map(|id| (*id).to_owned()).collect();
            (Id::from(*id), element(*part, "x", &under))
        });
        Tree::compile(&creative(elements.collect())).unwrap_err().to_string()
    };
    let (title, text, cta) = (Part::Title, Part::Text, Part::Cta);
    assert_eq!(fault(&[("a", title, &["z"])]), "elements.a.under: there is no element `z` in this creative");
    assert!(fault(&[("a", title, &["b"]), ("b", title, &[])]).starts_with("elements.a.under: all elements"));
    let two = [("a", title, &[][..]), ("b", text, &[]), ("c", cta, &["a"]), ("d", cta, &["b"])];
    assert!(fault(&two).starts_with("elements.d.under: all elements"));
    assert!(fault(&[("a", title, &["b"]), ("b", text, &["a"])]).contains("circle"));
    assert!(fault(&[("a", title, &["b", "b"]), ("b", text, &[])]).contains("twice"));
    // A title and a text that must both stand under an element that is not there for the other's sake.
    let none = [("a", title, &[][..]), ("b", title, &[]), ("c", text, &["a"]), ("d", cta, &["b"])];
    assert!(fault(&none).contains("no composition"));
    // A title with no text of its own, beside one that has some.
    let idle = [("a", title, &[][..]), ("b", title, &[]), ("c", text, &["a"])];
    assert!(fault(&idle).starts_with("elements.b: stands in no composition"), "{}", fault(&idle));
    assert!(Tree::compile(&creative(BTreeMap::new())).unwrap().is_none());
}
