#include "server/handlers/plan.h"
