#include "server/handlers/plan.h"
#include "server/retention/scheduler.h"
#include <leveldb/c.h>
