#include "base/error.h"
#include "base/json.h"
#include "fuzz/fuzz.h"
#include "text/jinja/jinja.h"

namespace sluice::fuzz {

// Templates that people wrote lie in seeds/jinja.
std::vector<std::string> make_seeds() {
  return {"", "hello {{ messages[0].content }}",
          "{% for m in messages %}{{ m['role'] ~ loop.index }}{% endfor %}",
          "{%- macro f(x, y=2) -%}{{ x + y }}{%- endmacro -%}{{ f(1) }}{% set ns = namespace(a=1) %}{% set "
          "ns.a = 2 %}{{ ns.a }}"};
}

std::vector<std::string> make_dictionary() {
  // Separated by spaces; a '·' in a word stands for one.
  return split_words(R"words(
      {{ }} {% %} {%- -%} {# #} {%for·x·in· {%endfor%} {%if· {%elif· {%else%} {%endif%} {%set·
      {%endset%} {%macro·f()%} {%endmacro%} namespace( raise_exception( strftime_now( |tojson
      |length |join( |selectattr( |map(attribute= |trim |upper ·is·defined ·is·not·none ·not·in·
      ·if· ·else· loop. range( range(1000000000) [::-1] [1: ** // ~ (((((((((((( [[[[[[[[[[[[
      {{{{{{{{ not·not·not· -·-·-· 'x'*1000000000 messages .content {%break%} {%filter·upper%}
      {%call·f()%} {%generation%} \x ' " recursive caller( 9999999999999999999)words");
}

std::string mutate_structure(const std::string& input, uint64_t) { return input; }

}  // namespace sluice::fuzz

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using namespace sluice;
  static const json::object kContext =
      json::parse(R"({"messages":[{"role":"system","content":"be brief"},{"role":"user","content":"hi"},
                      {"role":"assistant","content":null,"tool_calls":[
                          {"function":{"name":"f","arguments":{"a":[1,2.5,true]}}}]}],
                      "add_generation_prompt":true,"bos_token":"<s>","eos_token":"</s>","tools":[]})")
          .get_object();
  static const jinja::Limits kLimits{.max_output_bytes = 1 << 16, .max_steps = 20000, .max_depth = 60};
  try {
    jinja::Template parsed(std::string_view(reinterpret_cast<const char*>(data), size));
    parsed.render(kContext, 1700000000, kLimits);
    return 0;
  } catch (const Error&) {
    return -1;
  }
}
