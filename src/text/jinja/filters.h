// The filters, in three files by what they work on; filters.cc has the table of all of them.
#pragma once

#include <string_view>
#include <utility>
#include <vector>

#include "text/jinja/ast.h"

namespace sluice::jinja {

using NamedFilter = std::pair<std::string_view, Filter>;

const std::vector<NamedFilter>& text_filters();
const std::vector<NamedFilter>& sequence_filters();
const std::vector<NamedFilter>& value_filters();

// textwrap.wrap() of one line.
std::vector<std::string> wrap_line(std::string_view line, int64_t width, bool break_long_words, bool break_on_hyphens);

}  // namespace sluice::jinja
