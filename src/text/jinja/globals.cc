// The functions every template sees.
#include "text/jinja/arguments.h"
#include "text/jinja/interpreter.h"
#include "text/jinja/python_format.h"

namespace sluice::jinja {
namespace {

constexpr int64_t kMaxRange = 100000;  // the sandbox's own limit

Value make_range(Interpreter&, const CallArgs& call) {
  Arguments args("range()", call, {"", "", ""}, 1);
  int64_t start = args.has(1) ? args.integer(0, 0) : 0;
  int64_t stop = args.has(1) ? args.integer(1, 0) : args.integer(0, 0);
  int64_t step = args.integer(2, 1);
  if (step == 0) fail(Code::kInvalidArgument, "range() arg 3 must not be zero");
  Int distance = step > 0 ? Int{stop} - start : Int{start} - stop;
  Int stride = step > 0 ? Int{step} : -Int{step};
  Int size = distance <= 0 ? 0 : (distance - 1) / stride + 1;
  if (size > kMaxRange) fail(Code::kInvalidArgument, "range too big: the sandbox blocks ranges larger than {}", kMaxRange);
  return Value::object(Kind::kRange, std::make_shared<Range>(Range{start, stop, step, static_cast<int64_t>(size)}));
}

// dict(mapping or pairs, **more), which namespace() takes too.
Dict build_dict(const char* callee, const CallArgs& call) {
  if (call.positional.size() > 1) {
    fail(Code::kInvalidArgument, "{} takes at most 1 positional argument ({} given)", callee, call.positional.size());
  }
  Dict dict;
  if (!call.positional.empty()) {
    const Value& source = call.positional[0];
    if (source.is(Kind::kDict)) {
      for (const auto& [key, value] : source.dict().items) dict.set(key, value);
    } else {
      for (const Value& pair : Items(source)) {
        std::shared_ptr<const List> parts = iterate(pair);
        if (parts->items.size() != 2) {
          fail(Code::kInvalidArgument, "{}: an element has length {}; 2 is required", callee, parts->items.size());
        }
        dict.set(parts->items[0], parts->items[1]);
      }
    }
  }
  for (const auto& [name, value] : call.named) dict.set(Value::string(name), value);
  return dict;
}

Value make_dict(Interpreter&, const CallArgs& call) { return Value::dict(build_dict("dict()", call)); }

Value make_namespace(Interpreter& interpreter, const CallArgs& call) {
  return interpreter.make_namespace(build_dict("namespace()", call));
}

Value make_cycler(Interpreter&, const CallArgs& call) {
  if (call.positional.empty()) fail(Code::kInvalidArgument, "cycler(): at least one item has to be provided");
  if (!call.named.empty()) fail(Code::kInvalidArgument, "cycler() takes no keyword arguments");
  Value items = Value::list(call.positional);
  return Value::object(Kind::kCycler, std::make_shared<Cycler>(Cycler{items.items(), 0}));
}

Value make_joiner(Interpreter&, const CallArgs& call) {
  Arguments args("joiner()", call, {"sep"});
  return Value::object(Kind::kJoiner, std::make_shared<Joiner>(Joiner{args.value(0, Value::string(", ")), false}));
}

Value raise_exception(Interpreter&, const CallArgs& call) {
  Arguments args("raise_exception()", call, {"message"}, 1);
  throw RaisedException{to_str(*args.get(0))};
}

Value strftime_now(Interpreter& interpreter, const CallArgs& call) {
  Arguments args("strftime_now()", call, {"format"}, 1);
  return Value::string(format_time(args.text(0), interpreter.now()));
}

}  // namespace

Value find_global(std::string_view name) {
  static const std::vector<Function> kFunctions = {
      {"range", make_range},   {"dict", make_dict},     {"namespace", make_namespace},
      {"cycler", make_cycler}, {"joiner", make_joiner}, {"raise_exception", raise_exception},
      {"strftime_now", strftime_now},
  };
  for (const Function& function : kFunctions) {
    if (function.name == name) return Value::object(Kind::kFunction, std::make_shared<Function>(function));
  }
  return Value();
}

}  // namespace sluice::jinja
