// The version of sluice, as `sluice --version` and /version report it.
#pragma once

#define SLUICE_VERSION "0.1.0"
