// A fuzz target is one file with LLVMFuzzerTestOneInput and the three functions below, linked with driver.cc
// (or with -fsanitize=fuzzer: the entry point is libFuzzer's). The target hands the bytes to one parser and
// catches sluice::Error and nothing else: any other exception, any signal and any input that takes longer
// than a few seconds is a finding. It returns 0 when the input was accepted and -1 when it was refused; the
// driver mutates accepted inputs further.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size);

namespace sluice::fuzz {

// Well-formed inputs made in code; more may be named on the command line.
std::vector<std::string> make_seeds();
// Words worth inserting: keywords, delimiters, names of fields.
std::vector<std::string> make_dictionary();
// A dictionary from one text: words between blanks, where a middle dot stands for a blank.
std::vector<std::string> split_words(std::string_view text);
// One mutation that knows the format: changes a field, not just a byte. Returns the input as it is when it
// has no idea. Must depend on nothing but its arguments.
std::string mutate_structure(const std::string& input, uint64_t random);

}  // namespace sluice::fuzz
