#include "server/core/core.h"
