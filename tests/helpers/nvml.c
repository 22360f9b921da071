/* A stand-in for NVIDIA's libnvidia-ml.so.1: two GPUs that draw 250 W each; NVML_COUNTER=0 takes their counters away,
   NVML_GPUS says how many there are. */

#include <stdlib.h>
#include <string.h>
#include <time.h>

enum { SUCCESS = 0, NOT_SUPPORTED = 3, NOT_FOUND = 6 };

static unsigned gpus(void)
{
    const char *given = getenv("NVML_GPUS");
    return given ? (unsigned)atoi(given) : 2;
}

int nvmlInitWithFlags(unsigned flags)
{
    (void)flags;
    return SUCCESS;
}

int nvmlShutdown(void)
{
    return SUCCESS;
}

const char *nvmlErrorString(int result)
{
    return result == NOT_SUPPORTED ? "Not Supported" : "Not Found";
}

int nvmlDeviceGetCount_v2(unsigned *count)
{
    *count = gpus();
    return SUCCESS;
}

int nvmlDeviceGetHandleByIndex_v2(unsigned index, void **gpu)
{
    static char handles[16];
    *gpu = &handles[index];
    return index < gpus() ? SUCCESS : NOT_FOUND;
}

int nvmlDeviceGetName(void *gpu, char *name, unsigned length)
{
    (void)gpu;
    strncpy(name, "Tesla K40", length);
    return SUCCESS;
}

int nvmlDeviceGetTotalEnergyConsumption(void *gpu, unsigned long long *millijoules)
{
    const char *given = getenv("NVML_COUNTER");
    struct timespec now;
    (void)gpu;
    if (given && *given == '0')
        return NOT_SUPPORTED;
    clock_gettime(CLOCK_MONOTONIC, &now);
    *millijoules = 250ull * (1000ull * now.tv_sec + now.tv_nsec / 1000000);
    return SUCCESS;
}

int nvmlDeviceGetPowerUsage(void *gpu, unsigned *milliwatts)
{
    (void)gpu;
    *milliwatts = 250000;
    return SUCCESS;
}
