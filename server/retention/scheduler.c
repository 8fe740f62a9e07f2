#include "server/retention/scheduler.h"
