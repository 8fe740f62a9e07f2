#include "server/runtime/log.h"
