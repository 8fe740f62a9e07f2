#include "server/runtime/clock.h"
