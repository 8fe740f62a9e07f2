#include <stdint.h>
#include <openssl/ssl.h>
