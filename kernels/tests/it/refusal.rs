//! Wrong shapes and unknown instruction sets are refused by name, and nothing is written.

use longbow_kernels::{Engine, Isa, KernelError, KvFormat, Linear, MatrixMut, MatrixRef, PackedMatrix, Shape};

use crate::world::{Tables, Times, User, poisoned, rng};

fn what(result: Result<(), KernelError>) -> &'static str {
    match result {
        Err(KernelError::Shape { what, .. }) => what,
        other => panic!("expected a shape error, got {other:?}"),
    }
}

#[test]
fn lengths_that_do_not_fit_are_named() {
    let shape = Shape { heads: 2, d_qk: 8, d_v: 8 };
    let mut rng = rng(31);
    let (tables, short) = (Tables::new(64, true, &mut rng), Tables::new(10, true, &mut rng));
    let user = User::new(shape, 50, 4, Times::Sorted, &mut rng);
    let (next, kept) = (user.next_times(), user.keep_whole(KvFormat::F32));
    let blocks = kept.blocks();
    let engine = Engine::new(1, None).expect("engine");
    let mut out = poisoned(50, shape);

    let wide = Shape { d_qk: 9, ..shape };
    let seq = user.causal(0, &next, &blocks, &mut out);
    assert_eq!(what(engine.causal(wide, &tables.scoring(), &mut [seq])), "q columns (heads * d_qk)");
    let seq = user.causal(0, &next, &blocks, &mut out);
    assert_eq!(what(engine.causal(shape, &short.scoring(), &mut [seq])), "highest position (bias.max_len - 1)");
    let mut seq = user.causal(0, &next, &blocks, &mut out);
    seq.next_times = &next[1..];
    assert_eq!(what(engine.causal(shape, &tables.scoring(), &mut [seq])), "next_times length (as q rows)");
    let mut seq = user.causal(0, &next, &blocks, &mut out);
    seq.first_position = 1;
    let wanted = "kv rows in all (first_position + q rows)";
    assert_eq!(what(engine.causal(shape, &tables.scoring(), &mut [seq])), wanted);
    let mut scoring = tables.scoring();
    if let Some(bias) = &mut scoring.bias {
        bias.ts_w = &bias.ts_w[1..];
    }
    let seq = user.causal(0, &next, &blocks, &mut out);
    assert_eq!(what(engine.causal(shape, &scoring, &mut [seq])), "bias.ts_w length (buckets + 1)");
    let zero = Shape { heads: 0, ..shape };
    assert_eq!(what(engine.causal(zero, &tables.scoring(), &mut [])), "shape.heads");
    let huge = Shape { d_v: 257, ..shape };
    assert_eq!(what(engine.candidates(huge, &tables.scoring(), &mut [])), "shape.d_v");
    assert!(out.iter().all(|x| x.is_nan()), "a refused call writes nothing");
}

#[test]
fn views_check_their_data() {
    assert!(MatrixRef::new(&[0.0; 10], 3, 4, 3).is_err(), "stride below the columns");
    assert!(MatrixRef::new(&[0.0; 10], 3, 4, 4).is_err(), "two floats short");
    assert!(MatrixRef::new(&[0.0; 10], 3, 2, 4).is_ok(), "the last row ends at its last column");
    assert!(MatrixMut::new(&mut [0.0; 10], 3, 3, 4).is_err(), "one float short");
    assert!(MatrixRef::new(&[], usize::MAX, 2, usize::MAX).is_err(), "sizes that overflow");
}

#[test]
fn products_of_unequal_shapes_are_refused() {
    let engine = Engine::new(1, None).expect("engine");
    let data = [0.0; 64];
    let mut c = [0.0; 64];
    let a = MatrixRef::dense(&data, 4, 5).expect("a");
    let weight = PackedMatrix::new(MatrixRef::dense(&data, 6, 4).expect("b"));
    let linear = Linear { weight: &weight, bias: None };
    let wanted = "linear: rows of the weight (columns of the input)";
    assert_eq!(what(engine.linear(a, linear, MatrixMut::dense(&mut c, 4, 4).expect("c"))), wanted);
    let linear = Linear { weight: &PackedMatrix::transposed(a), bias: Some(&data[..3]) };
    let wanted = "linear: length of the bias (columns)";
    assert_eq!(what(engine.linear(a, linear, MatrixMut::dense(&mut c, 4, 4).expect("c"))), wanted);
}

#[test]
fn keys_of_another_kind_are_refused() {
    let shape = Shape { heads: 2, d_qk: 8, d_v: 8 };
    let mut rng = rng(32);
    let tables = Tables::new(64, true, &mut rng);
    let user = User::new(shape, 50, 4, Times::Sorted, &mut rng);
    let (next, f32s, bf16s) = (user.next_times(), user.keep_whole(KvFormat::F32), user.keep_whole(KvFormat::Bf16));
    let mixed = [f32s.blocks(), bf16s.blocks()].concat();
    let mut out = poisoned(50, shape);
    let seq = user.causal(0, &next, &mixed, &mut out);
    let engine = Engine::new(1, None).expect("engine");
    let wanted = "kv format (as the first block's)";
    assert_eq!(what(engine.causal(shape, &tables.scoring(), &mut [seq])), wanted);
}

#[test]
fn instruction_sets_have_names() {
    for isa in Isa::available() {
        assert_eq!(isa.to_string().parse::<Isa>().expect("a name"), isa);
        assert_eq!(Engine::new(1, Some(isa)).expect("engine").isa(), isa);
    }
    let error = "sse9".parse::<Isa>().expect_err("no such set").to_string();
    assert!(error.contains("sse9") && error.contains("Portable"), "{error}");
    assert!(Isa::available().contains(&Isa::detect()));
}
