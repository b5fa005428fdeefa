// Walking the panels of a sequence, and their layout. Included by attention.hpp and tiles.hpp.
#pragma once

namespace {

// Words (32 bits) of one head's K and V in a panel.
struct HeadWords {
    int64_t k, v;
};

HeadWords head_words(const LongbowAttention& p, int64_t panel_keys) {
    const int64_t v_width = round_up(p.d_v, 16);
    if (p.format == LONGBOW_BF16) return {round_up(p.d_qk, 32) / 2 * panel_keys, panel_keys / 2 * v_width};
    return {p.d_qk * panel_keys, panel_keys * v_width};
}

// One panel, or its beginning.
struct Step {
    const uint32_t* panel;
    const uint32_t* end;  // of the panel
    int64_t panel_keys;
    int64_t keys;
    StepTimes times;
};

// Walks the blocks of a sequence panel by panel.
class Cursor {
  public:
    explicit Cursor(const LongbowAttention& p) : p_(p), block_(p.blocks), end_(p.blocks + p.block_count), row_(p.key_begin) {
        settle();
    }

    // Takes the next panel, but at most `most` keys of it. False where there is none, or none starts here.
    bool take(int64_t most, Step& out) {
        settle();
        if (block_ == end_ || row_ % block_->panel_keys != 0) return false;
        const LongbowKvBlock& b = *block_;
        const HeadWords words = head_words(p_, b.panel_keys);
        const int64_t panel_words = p_.heads * (words.k + words.v);
        out.panel = static_cast<const uint32_t*>(b.panels) + row_ / b.panel_keys * panel_words;
        out.end = out.panel + panel_words;
        out.panel_keys = b.panel_keys;
        out.keys = smaller(smaller(b.panel_keys, b.rows - row_), most);
        if (b.times) {
            out.times.read(b.times + row_, out.keys);
        }
        row_ += out.keys;
        return true;
    }

  private:
    void settle() {
        while (block_ != end_ && row_ >= block_->rows) {
            row_ -= block_->rows;
            ++block_;
        }
    }

    const LongbowAttention& p_;
    const LongbowKvBlock* block_;
    const LongbowKvBlock* end_;
    int64_t row_;
};

}  // namespace
