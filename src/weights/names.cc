#include "weights/names.h"

#include <algorithm>
#include <array>
#include <charconv>
#include <optional>

namespace calotype {
namespace {

// One prefix in two schemes. "#" stands for the same number in both, "^" for a level of the decoder
// (counted from the other end), "+" for a number that is one more in the original.
struct Rule {
  std::string_view original, diffusers;
};

constexpr std::array kQuantRules = {
    Rule{"encoder.quant_conv.", "quant_conv."},
    Rule{"decoder.post_quant_conv.", "post_quant_conv."},
};

constexpr std::array kRules = {
    Rule{"encoder.norm_out.", "encoder.conv_norm_out."},
    Rule{"decoder.norm_out.", "decoder.conv_norm_out."},
    Rule{"encoder.down.#.downsample.conv.", "encoder.down_blocks.#.downsamplers.0.conv."},
    Rule{"encoder.down.#.block.#.nin_shortcut.", "encoder.down_blocks.#.resnets.#.conv_shortcut."},
    Rule{"encoder.down.#.block.#.", "encoder.down_blocks.#.resnets.#."},
    Rule{"decoder.up.^.upsample.conv.", "decoder.up_blocks.^.upsamplers.0.conv."},
    Rule{"decoder.up.^.block.#.nin_shortcut.", "decoder.up_blocks.^.resnets.#.conv_shortcut."},
    Rule{"decoder.up.^.block.#.", "decoder.up_blocks.^.resnets.#."},
    Rule{"encoder.mid.block_+.", "encoder.mid_block.resnets.+."},
    Rule{"decoder.mid.block_+.", "decoder.mid_block.resnets.+."},
    Rule{"encoder.mid.attn_1.norm.", "encoder.mid_block.attentions.0.group_norm."},
    Rule{"encoder.mid.attn_1.q.", "encoder.mid_block.attentions.0.to_q."},
    Rule{"encoder.mid.attn_1.k.", "encoder.mid_block.attentions.0.to_k."},
    Rule{"encoder.mid.attn_1.v.", "encoder.mid_block.attentions.0.to_v."},
    Rule{"encoder.mid.attn_1.proj_out.", "encoder.mid_block.attentions.0.to_out.0."},
    Rule{"decoder.mid.attn_1.norm.", "decoder.mid_block.attentions.0.group_norm."},
    Rule{"decoder.mid.attn_1.q.", "decoder.mid_block.attentions.0.to_q."},
    Rule{"decoder.mid.attn_1.k.", "decoder.mid_block.attentions.0.to_k."},
    Rule{"decoder.mid.attn_1.v.", "decoder.mid_block.attentions.0.to_v."},
    Rule{"decoder.mid.attn_1.proj_out.", "decoder.mid_block.attentions.0.to_out.0."},
};

// What diffusers called the attention's projections before 0.17.
constexpr std::array kOldAttention = {
    Rule{"query.", "to_q."},
    Rule{"key.", "to_k."},
    Rule{"value.", "to_v."},
    Rule{"proj_attn.", "to_out.0."},
};
constexpr std::array<std::string_view, 2> kAttentions = {"encoder.mid_block.attentions.0.",
                                                         "decoder.mid_block.attentions.0."};

bool is_wildcard(char c) { return c == '#' || c == '^' || c == '+'; }

// The number at the start of `text`, which loses it: at most three digits, no leading zero.
std::optional<int> take_number(std::string_view& text) {
  int number = 0;
  const auto [end, error] =
      std::from_chars(text.data(), text.data() + std::min<size_t>(text.size(), 3), number);
  const size_t length = static_cast<size_t>(end - text.data());
  if (error != std::errc() || text[0] == '-' || (length > 1 && text[0] == '0')) return std::nullopt;
  text.remove_prefix(length);
  return number;
}

// `name` with the prefix `from` replaced by `to`, numbers carried over by `carry`.
template <class Carry>
std::optional<std::string> rename(std::string_view name, std::string_view from, std::string_view to,
                                  Carry carry) {
  std::array<int, 2> numbers{};
  size_t count = 0;
  for (const char c : from) {
    if (is_wildcard(c)) {
      const std::optional<int> number = take_number(name);
      if (!number) return std::nullopt;
      numbers[count++] = carry(c, *number);
      if (numbers[count - 1] < 0) return std::nullopt;
    } else if (!name.starts_with(c)) {
      return std::nullopt;
    } else {
      name.remove_prefix(1);
    }
  }
  std::string renamed;
  size_t next = 0;
  for (const char c : to) {
    if (is_wildcard(c)) {
      renamed += std::to_string(numbers[next++]);
    } else {
      renamed += c;
    }
  }
  return renamed + std::string(name);
}

std::optional<std::string> from_original(std::string_view name, const Rule& rule, int levels) {
  return rename(name, rule.original, rule.diffusers, [&](char kind, int number) {
    return kind == '^' ? levels - 1 - number : kind == '+' ? number - 1 : number;
  });
}

std::optional<std::string> to_original(std::string_view name, const Rule& rule, int levels) {
  return rename(name, rule.diffusers, rule.original, [&](char kind, int number) {
    return kind == '^' ? levels - 1 - number : kind == '+' ? number + 1 : number;
  });
}

}  // namespace

std::string vae_prefix(const std::vector<std::string>& names) {
  for (const std::string_view prefix : {"first_stage_model.", "vae."}) {
    for (const std::string& name : names) {
      if (!name.starts_with(prefix)) continue;
      const std::string_view rest = std::string_view(name).substr(prefix.size());
      if (rest.starts_with("encoder.") || rest.starts_with("decoder.")) return std::string(prefix);
    }
  }
  return "";
}

bool is_original_name(std::string_view name) {
  constexpr int kAnyLevels = 1000;
  return std::ranges::any_of(
      kRules, [&](const Rule& rule) { return from_original(name, rule, kAnyLevels).has_value(); });
}

int decoder_levels(const std::vector<std::string>& names) {
  constexpr std::string_view kPrefix = "decoder.up.";
  int levels = 0;
  for (const std::string_view name : names) {
    if (!name.starts_with(kPrefix)) continue;
    std::string_view rest = name.substr(kPrefix.size());
    if (const auto number = take_number(rest); number && rest.starts_with('.')) {
      levels = std::max(levels, *number + 1);
    }
  }
  return levels;
}

std::string diffusers_name(std::string_view name, int levels) {
  for (const Rule& rule : kQuantRules) {
    if (auto renamed = from_original(name, rule, levels)) return *renamed;
  }
  for (const Rule& rule : kRules) {
    if (auto renamed = from_original(name, rule, levels)) return *renamed;
  }
  for (const std::string_view attention : kAttentions) {
    if (!name.starts_with(attention)) continue;
    for (const Rule& rule : kOldAttention) {
      if (auto renamed = from_original(name.substr(attention.size()), rule, levels)) {
        return std::string(attention) + *renamed;
      }
    }
  }
  return std::string(name);
}

std::string original_name(std::string_view name, int levels, bool flux2) {
  if (flux2) {
    for (const Rule& rule : kQuantRules) {
      if (auto renamed = to_original(name, rule, levels)) return *renamed;
    }
  }
  for (const Rule& rule : kRules) {
    if (auto renamed = to_original(name, rule, levels)) return *renamed;
  }
  return std::string(name);
}

bool is_attention_weight(std::string_view name) {
  for (const std::string_view attention : kAttentions) {
    if (!name.starts_with(attention)) continue;
    const std::string_view rest = name.substr(attention.size());
    return rest == "to_q.weight" || rest == "to_k.weight" || rest == "to_v.weight" ||
           rest == "to_out.0.weight";
  }
  return false;
}

bool is_training_leftover(std::string_view name) {
  return name == "bn.num_batches_tracked" || name.starts_with("loss.") ||
         name.starts_with("model_ema.");
}

}  // namespace calotype
