//! Dense layers against sums in f64.

use longbow_kernels::{Affine, MatrixMut, MatrixRef};

use crate::world::{engines, floats, rng};

const CLOSE: f64 = 2e-6;

fn near(got: f32, want: f64, size: f64) -> bool {
    (f64::from(got) - want).abs() <= CLOSE * size
}

fn product(a: MatrixRef<'_>, b: impl Fn(usize, usize) -> f32, (row, col): (usize, usize)) -> (f64, f64) {
    let terms = a.row(row).iter().enumerate().map(|(k, &x)| f64::from(x) * f64::from(b(k, col)));
    terms.fold((0.0, 1e-3), |(sum, size), t| (sum + t, size + t.abs()))
}

#[test]
fn products_with_strides_and_accumulation() {
    let mut rng = rng(21);
    for (m, k, n) in [(0, 4, 4), (1, 1, 1), (3, 64, 256), (513, 50, 24), (700, 128, 65), (9, 0, 7)] {
        let (sa, sb, sbt, sc) = (k + 3, n + 1, k + 2, n + 5);
        let (a, b) = (floats(m * sa + 1, 1.0, &mut rng), floats(k * sb + 1, 1.0, &mut rng));
        let bt = floats(n * sbt + 1, 1.0, &mut rng);
        let old = floats(m * sc + 1, 1.0, &mut rng);
        let a = MatrixRef::new(&a, m, k, sa).expect("a");
        let b = MatrixRef::new(&b, k, n, sb).expect("b");
        let bt = MatrixRef::new(&bt, n, k, sbt).expect("bt");
        for engine in engines() {
            for beta in [0.0_f32, 1.0] {
                let (mut c, mut ct) = (old.clone(), old.clone());
                if beta == 0.0 {
                    for row in 0..m {
                        c[row * sc..][..n].fill(f32::NAN);
                    }
                }
                engine.gemm(a, b, beta, MatrixMut::new(&mut c, m, n, sc).expect("c")).expect("gemm");
                engine.gemm_bt(a, bt, beta, MatrixMut::new(&mut ct, m, n, sc).expect("c")).expect("gemm_bt");
                for (row, col) in (0..m).flat_map(|r| (0..n).map(move |c| (r, c))) {
                    let before = f64::from(beta) * f64::from(old[row * sc + col]);
                    let (sum, size) = product(a, |k, j| b.row(k)[j], (row, col));
                    assert!(near(c[row * sc + col], sum + before, size + 1.0), "({row}, {col}) of {m} x {k} x {n}");
                    let (sum, size) = product(a, |k, j| bt.row(j)[k], (row, col));
                    assert!(
                        near(ct[row * sc + col], sum + before, size + 1.0),
                        "({row}, {col}) of {m} x {k} x {n}, bt"
                    );
                }
                for row in 0..m.saturating_sub(1) {
                    assert_eq!(
                        c[row * sc + n..(row + 1) * sc],
                        old[row * sc + n..(row + 1) * sc],
                        "gap after row {row}"
                    );
                }
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
    let b = MatrixRef::dense(&b, k, n).expect("b");
    for engine in engines() {
        let mut whole = vec![0.0; m * n];
        engine
            .gemm(MatrixRef::dense(&a, m, k).expect("a"), b, 0.0, MatrixMut::dense(&mut whole, m, n).expect("c"))
            .expect("gemm");
        for (start, rows) in [(0, 1), (7, 1), (255, 3), (590, 10), (100, 300)] {
            let part = MatrixRef::dense(&a[start * k..], rows, k).expect("a");
            let mut c = vec![0.0; rows * n];
            engine.gemm(part, b, 0.0, MatrixMut::dense(&mut c, rows, n).expect("c")).expect("gemm");
            assert_eq!(c, whole[start * n..(start + rows) * n], "{}: rows {start}+{rows}", engine.isa());
        }
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
                engine.layer_norm(view, 1e-6, affine, target).expect("layer_norm");
                let target = MatrixMut::dense(&mut gated, rows, cols).expect("out");
                engine.layer_norm_gate(gate, view, (1e-6, affine), target).expect("layer_norm_gate");
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

#[test]
fn elementwise_layers_touch_their_columns_only() {
    let mut rng = rng(24);
    let (rows, cols, stride) = (400, 150, 160);
    let x = floats(rows * stride, 20.0, &mut rng);
    let bias = floats(cols, 1.0, &mut rng);
    for engine in engines() {
        let mut out = x.clone();
        engine.silu_in_place(MatrixMut::new(&mut out, rows, cols, stride).expect("x")).expect("silu");
        let mut sums = x.clone();
        let other = MatrixRef::new(&x, rows, cols, stride).expect("x");
        engine.add_in_place(other, MatrixMut::new(&mut sums, rows, cols, stride).expect("x")).expect("add");
        engine.add_bias(&bias, MatrixMut::new(&mut sums, rows, cols, stride).expect("x")).expect("bias");
        for (i, (&old, &new)) in x.iter().zip(&out).enumerate() {
            if i % stride < cols {
                let exact = f64::from(old) / (1.0 + (-f64::from(old)).exp());
                assert!(
                    (f64::from(new) - exact).abs() <= 1e-6 * exact.abs().max(0.01),
                    "{}: silu({old})",
                    engine.isa()
                );
                assert_eq!(sums[i], old + old + bias[i % stride]);
            } else {
                assert_eq!((new, sums[i]), (old, old));
            }
        }
    }
}
