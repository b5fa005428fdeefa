// The top-k part of `check_layers.cpp`, which includes it among its own helpers.
// Vectors of a search, as the device holds them: bf16, or int8 with a scale for each row.
struct Vectors {
    bool bytes;
    int count, dim;
    std::vector<uint16_t> halves;
    std::vector<int8_t> numbers;
    std::vector<float> scales;

    Vectors(bool bytes, int count, int dim, bool coarse) : bytes(bytes), count(count), dim(dim) {
        if (bytes) {
            numbers.resize(size_t(count) * dim);
            for (auto& v : numbers) v = static_cast<int8_t>(coarse ? draw(2) : draw(255) - 127);
            scales.resize(count);
            for (auto& v : scales) v = coarse ? 1.0f : 0.001f + std::abs(normal()) / 100.0f;
        } else {
            std::vector<float> all(size_t(count) * dim);
            for (auto& v : all) v = coarse ? static_cast<float>(draw(2)) : normal();
            halves = rounded(all);
        }
    }
    void* data() { return bytes ? static_cast<void*>(numbers.data()) : halves.data(); }
    int row_bytes() const { return bytes ? dim : 2 * dim; }
    double at(int row, int column) const {
        const size_t i = size_t(row) * dim + column;
        return bytes ? double{scales[row]} * numbers[i] : double{bf16(halves[i])};
    }
};

// Rows of another set of vectors over those of this one.
void put(Vectors& to) {
    Vectors from(to.bytes, 1 + draw(std::min(to.count, 40)), to.dim, false);
    std::vector<uint32_t> rows(to.count);
    for (int r = 0; r < to.count; ++r) rows[r] = static_cast<uint32_t>(r);
    std::shuffle(rows.begin(), rows.end(), random_bits);
    Vectors want = to;
    for (int i = 0; i < from.count; ++i) {
        const size_t row = rows[i], bytes = static_cast<size_t>(to.row_bytes());
        std::copy_n(static_cast<char*>(from.data()) + i * bytes, bytes, static_cast<char*>(want.data()) + row * bytes);
        if (to.bytes) want.scales[row] = from.scales[i];
    }
    const LongbowPutRows p{rows.data(), from.data(), from.scales.data(), to.data(), to.bytes ? to.scales.data() : nullptr,
                           from.count, to.row_bytes()};
    launch((from.count + 7) / 8, 1, 256, 0, random_bits(), [&] { longbow_put_rows(p); });
    check(to.halves == want.halves && to.numbers == want.numbers && to.scales == want.scales,
          "put " + std::to_string(from.count) + " of " + std::to_string(to.count) + " rows of " + std::to_string(to.row_bytes()) + " bytes");
}

// What a search found against the order of the kernel's own scores, and these against f64.
bool right_hits(const Vectors& vectors, const LongbowTopK& p, const float* query, int q) {
    std::vector<std::pair<uint32_t, int>> want;
    bool right = true;
    float most = 0;
    for (int c = 0; c < p.dim; ++c) most = std::max(most, std::abs(query[c]));
    for (int r = 0; r < vectors.count; ++r) {
        if (p.eligible && !(p.eligible[q * p.eligible_words + r / 64] >> (r % 64) & 1)) continue;
        want.push_back({p.keys[size_t(q) * vectors.count + r], r});
        double exact = 0, size = 0, rounding = 0;
        for (int c = 0; c < p.dim; ++c) {
            const double v = vectors.at(r, c);
            exact += v * query[c];
            size += std::abs(v * query[c]);
            rounding += std::abs(v);
        }
        // With int8 vectors the query is rounded to 1 / 32,512 of its largest number.
        const double allowed = 1e-5 * size + 1e-6 + (vectors.bytes ? 0.51 * rounding * most / 32512 : 0);
        right = right && std::abs(longbow::score_of(want.back().first) - exact) <= allowed;
    }
    std::sort(want.begin(), want.end(), [](auto& a, auto& b) { return a.first != b.first ? a.first > b.first : a.second < b.second; });
    for (int i = 0; i < p.k; ++i) {
        const uint32_t got = p.out_rows[size_t(q) * p.k + i];
        if (i < static_cast<int>(want.size())) {
            right = right && got == static_cast<uint32_t>(want[i].second) && p.out_scores[size_t(q) * p.k + i] == longbow::score_of(want[i].first);
        } else {
            right = right && got == 0xffffffffu;
        }
    }
    return right;
}

void top_k(bool bytes) {
    const int piece = bytes ? 16 : 8, dim = piece * (1 + draw(draw(3) ? 16 : 1024 / piece));
    const int count = 1 + draw(4000), queries = 1 + draw(2), k = 1 + draw(draw(2) ? 1024 : 50);
    const bool coarse = draw(2), filtered = draw(2), shared_filter = draw(2);
    Vectors vectors(bytes, count, dim, coarse);
    put(vectors);
    std::vector<float> query(size_t(queries) * dim);
    for (auto& q : query) q = coarse ? static_cast<float>(draw(2)) : normal();
    const int words = (count + 63) / 64, share = draw(3);
    std::vector<uint64_t> eligible(size_t(words) * queries);
    for (size_t bit = 0; bit < eligible.size() * 64; ++bit) {
        if (draw(100) < (share == 0 ? 1 : share == 1 ? 50 : 100)) eligible[bit / 64] |= uint64_t{1} << (bit % 64);
    }
    const int block_rows = 100 + draw(1500), blocks = (count + block_rows - 1) / block_rows;
    std::vector<uint32_t> keys(size_t(queries) * count), counts(size_t(queries) * 3 * 2048), ties(size_t(queries) * blocks), taken(queries), rows_out(size_t(queries) * k);
    std::vector<uint64_t> found(size_t(queries) * 1024);
    std::vector<float> scores(size_t(queries) * k);
    LongbowTopK p{vectors.data(), vectors.scales.data(), query.data(), filtered ? eligible.data() : nullptr, keys.data(), counts.data(),
                  ties.data(), taken.data(), found.data(), rows_out.data(), scores.data(), count, shared_filter ? 0 : words, dim, k, block_rows, 0};
    int lanes = 1;
    while (lanes < 32 && lanes < dim / piece) lanes *= 2;
    const int loads = (dim / piece + lanes - 1) / lanes;
    const auto scoring = bytes ? (loads == 1 ? longbow_top_bytes_1 : longbow_top_bytes_2)
                               : (loads == 1 ? longbow_top_scores_1 : loads == 2 ? longbow_top_scores_2 : longbow_top_scores_4);
    const size_t shared = sizeof(longbow::SharedTop);
    launch(blocks, queries, 512, shared, random_bits(), [&] { scoring(p, lanes); });
    for (int pass = 1; pass <= 3; ++pass) launch(blocks, queries, 512, shared, random_bits(), [&] { longbow_top_narrow(p, pass); });
    launch(blocks, queries, 512, shared, random_bits(), [&] { longbow_top_gather(p); });
    launch(queries, 1, 512, 8192, random_bits(), [&] { longbow_top_sort(p); });
    bool right = true;
    for (int q = 0; q < queries; ++q) right = right_hits(vectors, p, query.data() + size_t(q) * dim, q) && right;
    check(right, "top " + std::to_string(k) + " of " + std::to_string(count) + " x " + std::to_string(dim) + (bytes ? " int8" : " bf16") +
                     (coarse ? ", many equal" : "") + (filtered ? ", filtered" : ""));
}
