#include "server/runtime/pool.h"
