// JSON from hostile files: nesting and duplicate keys are checked while it is parsed.
#pragma once

#include <cstdint>
#include <nlohmann/json.hpp>
#include <string>
#include <string_view>

namespace calotype {

using Json = nlohmann::json;

// Parses a whole document. Throws Error(kInvalidData), naming `file`, for anything that is not JSON
// (UTF-8, one value, nothing after it), an object that has a key twice, or values nested deeper
// than `max_depth`.
Json parse_json(std::string_view text, const std::string& file, int max_depth = 16);

// The member `key` of `object` as a whole number, a string, …: throws Error(kInvalidData) naming
// `where` ("the field x of 'config.json'") where it is missing or of another type or range.
int64_t json_integer(const Json& value, const std::string& where);
double json_number(const Json& value, const std::string& where);  // finite
bool json_boolean(const Json& value, const std::string& where);
const std::string& json_string(const Json& value, const std::string& where);

// "an object", "the number 3", "a string": for sentences about what was found.
std::string json_kind(const Json& value);

}  // namespace calotype
