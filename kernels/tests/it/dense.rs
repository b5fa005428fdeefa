//! Dense layers against sums in f64.

use longbow_kernels::{Affine, LayerNorm, Linear, MatrixMut, MatrixRef, PackedMatrix};

use crate::world::{engines, floats, rng};

const CLOSE: f64 = 2e-6;

fn near(got: f32, want: f64, size: f64) -> bool {
    (f64::from(got) - want).abs() <= CLOSE * size
}

fn product(a: MatrixRef<'_>, b: MatrixRef<'_>, (row, col): (usize, usize)) -> (f64, f64) {
    let terms = a.row(row).iter().enumerate().map(|(k, &x)| f64::from(x) * f64::from(b.row(k)[col]));
    terms.fold((0.0, 1.0), |(sum, size), t| (sum + t, size + t.abs()))
}

fn silu(x: f64) -> f64 {
    x / (1.0 + (-x).exp())
}

#[test]
fn products_with_strides_and_accumulation() {
    let mut rng = rng(21);
    for (m, k, n) in [(0, 4, 4), (1, 1, 1), (3, 64, 256), (513, 50, 24), (300, 128, 65), (9, 0, 7), (100, 16, 113)] {
        let (sa, sb, sc) = (k + 3, n + 1, n + 5);
        let (a, b) = (floats(m * sa + 1, 1.0, &mut rng), floats(k * sb + 1, 1.0, &mut rng));
        let (old, bias) = (floats(m * sc + 1, 1.0, &mut rng), floats(n, 1.0, &mut rng));
        let (a, b) = (MatrixRef::new(&a, m, k, sa).expect("a"), MatrixRef::new(&b, k, n, sb).expect("b"));
        let turned: Vec<f32> = (0..n).flat_map(|col| (0..k).map(move |row| b.row(row)[col])).collect();
        let packed = PackedMatrix::new(b);
        let transposed = PackedMatrix::transposed(MatrixRef::dense(&turned, n, k).expect("bt"));
        for engine in engines() {
            let (mut c, mut added) = (old.clone(), old.clone());
            for row in 0..m {
                c[row * sc..][..n].fill(f32::NAN);
            }
            let plain = Linear { weight: &packed, bias: None };
            engine.linear(a, plain, MatrixMut::new(&mut c, m, n, sc).expect("c")).expect("linear");
            let with_bias = Linear { weight: &transposed, bias: Some(&bias) };
            engine.add_linear(a, with_bias, MatrixMut::new(&mut added, m, n, sc).expect("c")).expect("add_linear");
            for (row, col) in (0..m).flat_map(|r| (0..n).map(move |c| (r, c))) {
                let (sum, size) = product(a, b, (row, col));
                let at = row * sc + col;
                assert!(near(c[at], sum, size), "({row}, {col}) of {m} x {k} x {n}");
                let before = f64::from(old[at]) + f64::from(bias[col]);
                assert!(near(added[at], sum + before, size + 2.0), "({row}, {col}) of {m} x {k} x {n}, added");
            }
            for row in 0..m.saturating_sub(1) {
                let gap = row * sc + n..(row + 1) * sc;
                assert_eq!(
                    (&c[gap.clone()], &added[gap.clone()]),
                    (&old[gap.clone()], &old[gap]),
                    "gap after row {row}"
                );
            }
        }
    }
}

/// A row of a product has the same bits whatever rows stand beside it.
#[test]
fn products_do_not_depend_on_neighbours() {
    let mut rng = rng(22);
    let (m, k, n) = (600, 96, 130);
    let (a, b) = (floats(m * k, 1.0, &mut rng), floats(k * n, 1.0, &mut rng));
    let packed = PackedMatrix::new(MatrixRef::dense(&b, k, n).expect("b"));
    let linear = Linear { weight: &packed, bias: None };
    for engine in engines() {
        let mut whole = vec![0.0; m * n];
        engine
            .linear(MatrixRef::dense(&a, m, k).expect("a"), linear, MatrixMut::dense(&mut whole, m, n).expect("c"))
            .expect("linear");
        for (start, rows) in [(0, 1), (7, 1), (255, 3), (590, 10), (100, 300)] {
            let part = MatrixRef::dense(&a[start * k..], rows, k).expect("a");
            let mut c = vec![0.0; rows * n];
            engine.linear(part, linear, MatrixMut::dense(&mut c, rows, n).expect("c")).expect("linear");
            assert_eq!(c, whole[start * n..(start + rows) * n], "{}: rows {start}+{rows}", engine.isa());
        }
    }
}

fn view(data: &[f32], rows: usize, cols: usize) -> MatrixRef<'_> {
    MatrixRef::dense(data, rows, cols).expect("view")
}

/// The fused layers are their parts, one after another.
#[test]
fn fused_layers_are_their_parts() {
    let mut rng = rng(25);
    let (m, d, v, n) = (250, 50, 24, 75);
    let (x, u, a) = (floats(m * d, 2.0, &mut rng), floats(m * v, 2.0, &mut rng), floats(m * v, 2.0, &mut rng));
    let (w, o) = (floats(d * n, 0.3, &mut rng), floats(v * d, 0.3, &mut rng));
    let (bias, out_bias, old) = (floats(n, 1.0, &mut rng), floats(d, 1.0, &mut rng), floats(m * d, 1.0, &mut rng));
    let norm = LayerNorm { epsilon: 1e-6, affine: None };
    let (w, o) = (PackedMatrix::new(view(&w, d, n)), PackedMatrix::new(view(&o, v, d)));
    for engine in engines() {
        let (mut normed, mut plain, mut fused) = (vec![0.0; m * d], vec![0.0; m * n], vec![0.0; m * n]);
        let linear = Linear { weight: &w, bias: Some(&bias) };
        engine.layer_norm(view(&x, m, d), norm, None, MatrixMut::dense(&mut normed, m, d).expect("n")).expect("norm");
        engine.linear(view(&normed, m, d), linear, MatrixMut::dense(&mut plain, m, n).expect("p")).expect("linear");
        let target = MatrixMut::dense(&mut fused, m, n).expect("f");
        engine.project(view(&x, m, d), norm, linear, (30, target)).expect("project");
        for (i, (&p, &f)) in plain.iter().zip(&fused).enumerate() {
            let p = f64::from(p);
            let want = if i % n < 30 { silu(p) } else { p };
            assert!((f64::from(f) - want).abs() <= 1e-6 * want.abs().max(0.01), "{}: {i}", engine.isa());
        }
        let (mut gated, mut sums, mut fused) = (vec![0.0; m * v], old.clone(), old.clone());
        let linear = Linear { weight: &o, bias: Some(&out_bias) };
        let target = MatrixMut::dense(&mut gated, m, v).expect("g");
        engine.layer_norm(view(&a, m, v), norm, Some(view(&u, m, v)), target).expect("norm");
        let target = MatrixMut::dense(&mut sums, m, d).expect("s");
        engine.add_linear(view(&gated, m, v), linear, target).expect("add");
        let target = MatrixMut::dense(&mut fused, m, d).expect("f");
        engine.gated_output((view(&u, m, v), view(&a, m, v)), norm, linear, target).expect("fused");
        assert_eq!(sums, fused);
    }
}

#[test]
fn layer_norms() {
    let mut rng = rng(23);
    for (rows, cols) in [(1, 1), (5, 50), (1000, 64), (3, 257)] {
        let (x, u) = (floats(rows * cols, 2.0, &mut rng), floats(rows * cols, 2.0, &mut rng));
        let (w, b) = (floats(cols, 1.0, &mut rng), floats(cols, 1.0, &mut rng));
        let view = MatrixRef::dense(&x, rows, cols).expect("x");
        let gate = MatrixRef::dense(&u, rows, cols).expect("u");
        for engine in engines() {
            for affine in [None, Some(Affine { weight: &w, bias: &b })] {
                let (mut out, mut gated) = (vec![f32::NAN; rows * cols], vec![f32::NAN; rows * cols]);
                let target = MatrixMut::dense(&mut out, rows, cols).expect("out");
                let norm = LayerNorm { epsilon: 1e-6, affine };
                engine.layer_norm(view, norm, None, target).expect("layer_norm");
                let target = MatrixMut::dense(&mut gated, rows, cols).expect("out");
                engine.layer_norm(view, norm, Some(gate), target).expect("layer_norm with a gate");
                for r in 0..rows {
                    let row: Vec<f64> = view.row(r).iter().map(|&v| f64::from(v)).collect();
                    let mean = row.iter().sum::<f64>() / row.len() as f64;
                    let variance = row.iter().map(|v| (v - mean).powi(2)).sum::<f64>() / row.len() as f64;
                    for (c, v) in row.iter().enumerate() {
                        let plain = (v - mean) / (variance + 1e-6).sqrt();
                        let want = if affine.is_some() { plain * f64::from(w[c]) + f64::from(b[c]) } else { plain };
                        assert!(near(out[r * cols + c], want, 4.0), "{rows} x {cols} at ({r}, {c})");
                        assert!(near(gated[r * cols + c], want * f64::from(u[r * cols + c]), 8.0));
                    }
                }
            }
        }
    }
}

/// The stated error of SiLU, on every instruction set, and that the columns beside it stay as they are.
#[test]
fn silu_keeps_its_stated_error() {
    let (rows, cols) = (5_000, 40);
    let x: Vec<f32> = (0..rows).map(|i| (i as f32 - 3_000.0) * 0.037).collect();
    let one = PackedMatrix::new(MatrixRef::dense(&[1.0; 40], 1, cols).expect("ones"));
    let linear = Linear { weight: &one, bias: None };
    // A norm that changes nothing: epsilon dwarfs the variance of one column, and the affine part gives the value.
    for engine in engines() {
        let mut out = vec![0.0; rows * cols];
        for (row, &x) in x.iter().enumerate() {
            let norm = LayerNorm { epsilon: 1.0, affine: Some(Affine { weight: &[1.0], bias: &[x] }) };
            let target = MatrixMut::dense(&mut out[row * cols..], 1, cols).expect("out");
            engine.project(MatrixRef::one_row(&[0.0]), norm, linear, (33, target)).expect("project");
        }
        for (i, &got) in out.iter().enumerate() {
            let x = x[i / cols];
            let want = if i % cols < 33 { silu(f64::from(x)) } else { f64::from(x) };
            let off = (f64::from(got) - want).abs();
            assert!(off <= 1e-6 * want.abs().max(0.01), "{}: silu({x})", engine.isa());
        }
    }
}
