#include "weights/json.h"

#include <cmath>
#include <set>
#include <vector>

#include "core/cat.h"

namespace calotype {
namespace {

// Refuses what nlohmann::json accepts in silence: an object with a key twice (the last would win),
// and nesting without end.
class Guard {
 public:
  Guard(const std::string& file, int max_depth) : file_(file), max_depth_(max_depth) {}

  bool operator()(int depth, Json::parse_event_t event, Json& parsed) {
    switch (event) {
      case Json::parse_event_t::object_start:
        keys_.emplace_back();
        check_depth(depth);
        break;
      case Json::parse_event_t::array_start:
        check_depth(depth);
        break;
      case Json::parse_event_t::object_end:
        keys_.pop_back();
        break;
      case Json::parse_event_t::key: {
        const std::string& key = parsed.get_ref<const std::string&>();
        if (!keys_.back().insert(key).second) {
          fail(ErrorCode::kInvalidData, file_, ": the JSON has the key \"", key,
               "\" twice in one object");
        }
        break;
      }
      default:
        break;
    }
    return true;
  }

 private:
  void check_depth(int depth) const {
    if (depth >= max_depth_) {
      fail(ErrorCode::kInvalidData, file_, ": the JSON is nested deeper than the ", max_depth_,
           " levels that are read");
    }
  }

  const std::string& file_;
  int max_depth_;
  std::vector<std::set<std::string>> keys_;  // of the objects that are open
};

[[noreturn]] void mistyped(const Json& value, const std::string& where, const char* expected) {
  fail(ErrorCode::kInvalidData, where, " should be ", expected, ", not ", json_kind(value));
}

}  // namespace

Json parse_json(std::string_view text, const std::string& file, int max_depth) {
  Guard guard(file, max_depth);
  try {
    return Json::parse(text.begin(), text.end(),
                       [&](int depth, Json::parse_event_t event, Json& parsed) {
                         return guard(depth, event, parsed);
                       });
  } catch (const Json::exception& error) {
    // "[json.exception.parse_error.101] parse error at line 1, column 2: …"
    const std::string_view reason = error.what();
    const size_t bracket = reason.find("] ");
    fail(ErrorCode::kInvalidData, file, ": is not JSON: ",
         bracket == std::string_view::npos ? reason : reason.substr(bracket + 2));
  }
}

std::string json_kind(const Json& value) {
  switch (value.type()) {
    case Json::value_t::null:
      return "null";
    case Json::value_t::object:
      return "an object";
    case Json::value_t::array:
      return "an array";
    case Json::value_t::boolean:
      return value.get<bool>() ? "true" : "false";
    case Json::value_t::string: {
      const std::string& text = value.get_ref<const std::string&>();
      constexpr size_t kShown = 60;
      return cat("\"", text.substr(0, kShown), text.size() > kShown ? "…" : "", "\"");
    }
    case Json::value_t::number_integer:
    case Json::value_t::number_unsigned:
    case Json::value_t::number_float:
      return cat("the number ", value.dump());
    default:
      return "something else";
  }
}

int64_t json_integer(const Json& value, const std::string& where) {
  if (value.is_number_unsigned()) {
    const uint64_t number = value.get<uint64_t>();
    if (number <= uint64_t{INT64_MAX}) return static_cast<int64_t>(number);
  } else if (value.is_number_integer()) {
    return value.get<int64_t>();
  }
  mistyped(value, where, "a whole number of at most 63 bits");
}

double json_number(const Json& value, const std::string& where) {
  if (!value.is_number()) mistyped(value, where, "a number");
  const double number = value.get<double>();
  if (!std::isfinite(number)) mistyped(value, where, "a finite number");
  return number;
}

bool json_boolean(const Json& value, const std::string& where) {
  if (!value.is_boolean()) mistyped(value, where, "true or false");
  return value.get<bool>();
}

const std::string& json_string(const Json& value, const std::string& where) {
  if (!value.is_string()) mistyped(value, where, "a string");
  return value.get_ref<const std::string&>();
}

}  // namespace calotype
