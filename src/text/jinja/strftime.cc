// datetime.strftime in the C locale for a time without a zone, with glibc's flags (%-d, %_H, %^a).
#include <array>

#include "text/jinja/python_format.h"
#include "text/jinja/unicode_text.h"

namespace sluice::jinja {
namespace {

constexpr std::array<const char*, 7> kDays = {"Sunday", "Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday"};
constexpr std::array<const char*, 12> kMonths = {"January", "February", "March",     "April",   "May",      "June",
                                                 "July",    "August",   "September", "October", "November", "December"};

struct CivilTime {
  int64_t year;
  int month, day, hour, minute, second, weekday, yearday;  // month and day from 1, weekday from Sunday, yearday from 0
};

bool is_leap(int64_t year) { return (year % 4 == 0 && year % 100 != 0) || year % 400 == 0; }

int64_t floor_div(int64_t a, int64_t b) { return a / b - (a % b != 0 && (a < 0) != (b < 0)); }

// The proleptic Gregorian calendar, counting in eras of 400 years that start on 1 March.
CivilTime to_civil(int64_t unix_seconds) {
  int64_t days = floor_div(unix_seconds, 86400);
  int64_t rest = unix_seconds - days * 86400;
  int64_t shifted = days + 719468;
  int64_t era = floor_div(shifted, 146097);
  int64_t day_of_era = shifted - era * 146097;
  int64_t year_of_era = (day_of_era - day_of_era / 1460 + day_of_era / 36524 - day_of_era / 146096) / 365;
  int64_t day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
  int64_t shifted_month = (5 * day_of_year + 2) / 153;
  CivilTime t;
  t.day = static_cast<int>(day_of_year - (153 * shifted_month + 2) / 5 + 1);
  t.month = static_cast<int>(shifted_month < 10 ? shifted_month + 3 : shifted_month - 9);
  t.year = year_of_era + era * 400 + (t.month <= 2 ? 1 : 0);
  t.hour = static_cast<int>(rest / 3600);
  t.minute = static_cast<int>(rest / 60 % 60);
  t.second = static_cast<int>(rest % 60);
  t.weekday = static_cast<int>(((days + 4) % 7 + 7) % 7);
  constexpr int kBefore[] = {0, 31, 59, 90, 120, 151, 181, 212, 243, 273, 304, 334};
  t.yearday = kBefore[t.month - 1] + t.day - 1 + (t.month > 2 && is_leap(t.year) ? 1 : 0);
  return t;
}

struct IsoWeek {
  int64_t year;
  int week;
};

IsoWeek to_iso_week(const CivilTime& t) {
  int monday_based = (t.weekday + 6) % 7;
  int week = (t.yearday - monday_based + 10) / 7;
  auto weeks_in = [](int64_t year) {
    auto end_day = [](int64_t y) { return (y + floor_div(y, 4) - floor_div(y, 100) + floor_div(y, 400)) % 7; };
    return end_day(year) == 4 || end_day(year - 1) == 3 ? 53 : 52;
  };
  if (week < 1) return {t.year - 1, weeks_in(t.year - 1)};
  if (week > weeks_in(t.year)) return {t.year + 1, 1};
  return {t.year, week};
}

std::string pad(int64_t number, int width, char fill, char flag) {
  if (flag == '-') fill = 0;
  if (flag == '_') fill = ' ';
  if (flag == '0') fill = '0';
  std::string text = std::to_string(number);
  if (fill != 0 && static_cast<int>(text.size()) < width) text.insert(0, static_cast<size_t>(width) - text.size(), fill);
  return text;
}

}  // namespace

std::string format_time(std::string_view format, int64_t unix_seconds) {
  // Years 1 to 9999, as datetime has.
  constexpr int64_t kFirst = -62135596800, kLast = 253402300799;
  CivilTime t = to_civil(unix_seconds < kFirst ? kFirst : unix_seconds > kLast ? kLast : unix_seconds);
  std::string out;
  for (size_t i = 0; i < format.size(); ++i) {
    if (format[i] != '%' || i + 1 == format.size()) {
      out.push_back(format[i]);
      continue;
    }
    size_t begin = i++;
    char flag = 0;
    while (i + 1 < format.size() && std::string_view("-_0^#").find(format[i]) != std::string_view::npos) flag = format[i++];
    if (i + 1 < format.size() && (format[i] == 'E' || format[i] == 'O')) ++i;
    int hour12 = t.hour % 12 == 0 ? 12 : t.hour % 12;
    std::string part;
    switch (format[i]) {
      case 'a': part = std::string(kDays[static_cast<size_t>(t.weekday)]).substr(0, 3); break;
      case 'A': part = kDays[static_cast<size_t>(t.weekday)]; break;
      case 'b':
      case 'h': part = std::string(kMonths[static_cast<size_t>(t.month - 1)]).substr(0, 3); break;
      case 'B': part = kMonths[static_cast<size_t>(t.month - 1)]; break;
      case 'c': part = format_time("%a %b %e %H:%M:%S %Y", unix_seconds); break;
      case 'C': part = pad(t.year / 100, 2, '0', flag); break;
      case 'd': part = pad(t.day, 2, '0', flag); break;
      case 'D':
      case 'x': part = format_time("%m/%d/%y", unix_seconds); break;
      case 'e': part = pad(t.day, 2, ' ', flag); break;
      case 'f': part = "000000"; break;
      case 'F': part = format_time("%Y-%m-%d", unix_seconds); break;
      case 'g': part = pad(to_iso_week(t).year % 100, 2, '0', flag); break;
      case 'G': part = pad(to_iso_week(t).year, 1, '0', flag); break;
      case 'H': part = pad(t.hour, 2, '0', flag); break;
      case 'I': part = pad(hour12, 2, '0', flag); break;
      case 'j': part = pad(t.yearday + 1, 3, '0', flag); break;
      case 'k': part = pad(t.hour, 2, ' ', flag); break;
      case 'l': part = pad(hour12, 2, ' ', flag); break;
      case 'm': part = pad(t.month, 2, '0', flag); break;
      case 'M': part = pad(t.minute, 2, '0', flag); break;
      case 'n': part = "\n"; break;
      case 'p': part = flag == '#' ? (t.hour < 12 ? "am" : "pm") : (t.hour < 12 ? "AM" : "PM"); break;
      case 'P': part = t.hour < 12 ? "am" : "pm"; break;
      case 'r': part = format_time("%I:%M:%S %p", unix_seconds); break;
      case 'R': part = format_time("%H:%M", unix_seconds); break;
      case 's': part = std::to_string(unix_seconds); break;
      case 'S': part = pad(t.second, 2, '0', flag); break;
      case 't': part = "\t"; break;
      case 'T':
      case 'X': part = format_time("%H:%M:%S", unix_seconds); break;
      case 'u': part = std::to_string(t.weekday == 0 ? 7 : t.weekday); break;
      case 'U': part = pad((t.yearday + 7 - t.weekday) / 7, 2, '0', flag); break;
      case 'V': part = pad(to_iso_week(t).week, 2, '0', flag); break;
      case 'w': part = std::to_string(t.weekday); break;
      case 'W': part = pad((t.yearday + 7 - (t.weekday + 6) % 7) / 7, 2, '0', flag); break;
      case 'y': part = pad(t.year % 100, 2, '0', flag); break;
      case 'Y': part = pad(t.year, 1, '0', flag); break;
      case 'z':
      case 'Z': break;  // a time without a zone
      case '%': part = "%"; break;
      default: part = std::string(format.substr(begin, i - begin + 1));
    }
    if (flag == '^' || (flag == '#' && std::string_view("aAbBh").find(format[i]) != std::string_view::npos)) part = to_upper(part);
    out += part;
  }
  return out;
}

}  // namespace sluice::jinja
