/*
 * libnvidia-ml.so.1 without a GPU: the NVML symbols that nvidia-ml-py loads for Plimsoll's calls, with NVML's own ABI.
 *
 * What the "driver" says is read from the text file named by $FAKE_NVML_STATE, which may change while a program runs
 * (it is looked at on every call; replace it by rename). One `key=value` a line, `#` starts a comment, N is a GPU:
 *
 *   gpus=2                                   how many GPUs there are (default 1, at most 16)
 *   init=LIB_RM_VERSION_MISMATCH             what nvmlInit returns (default OK)
 *   driver=DRIVER_NOT_LOADED                 what every call returns, nvmlInit too (default OK)
 *   driver_version=570.133.20
 *   gpuN.gone=1                              the GPU is not enumerated any more; calls on its handle are GPU_IS_LOST
 *   gpuN.uuid=  gpuN.name=  gpuN.pci=        identity; gpuN.all=GPU_IS_LOST answers every call on this GPU
 *   gpuN.temperature=65                      a value in NVML's own unit; see VALUES below for the names and defaults
 *   gpuN.nvlinks=18                          how many NVLinks it has; gpuN.nvlink_state_L=1 and gpuN.nvlink_replay_L=0 (and
 *                                            recovery, recovery_failed, crc, receive) are those of link L
 *   gpuN.call.nvmlDeviceGetPowerUsage=E      what this call returns on this GPU; E is an error's name without
 *                                            NVML_ERROR_ or its number, or SENTINEL: OK, with all bits of the answer set;
 *                                            in a signed number only the highest, since -1 may be meant
 *   gpuN.hang.nvmlDeviceGetPowerUsage=30     this call hangs for so many seconds, or until the line is gone
 *   call.NAME=E   hang.NAME=S                the same for calls without a GPU (nvmlInitWithFlags), or on all GPUs
 *   gpuN.field.230=E                         one value of nvmlDeviceGetFieldValues: an error's name, SENTINEL or a number;
 *                                            gpuN.field.165.3 is that of NVLink 3 alone
 *   gpuN.pids=41:1024,42:-                   its compute processes and the bytes of each, - hides them; without this line there
 *                                            are `processes` of them, from pid 1000 on, each with `process_memory`
 *   gpuN.fabric_version=2                    the newest nvmlGpuFabricInfo that the driver knows (default 3)
 *   gpuN.throttle_fields=251                 the first field of the throttle counters (default 269): where it is another, 269
 *                                            to 271 are power smoothing's, 32 bits wide
 *   gpuN.mig_mode=1                          as on hardware: no utilisation and no volatile ECC counters of the board
 *   gpuN.migM=GI,CI,UUID,NAME,TOTAL,USED     MIG device M (0..6) of GPU N; bytes. Without this line every call on a handle
 *                                            that was given out for it is INVALID_ARGUMENT. It has one process, pid 1000, if
 *                                            USED > 0; gpuN.migM_pids is as gpuN.pids.
 *                                            gpuN.migM_ecc_uncorrected=0. Faults: gpuN.migcall.NAME, gpuN.mighang.NAME
 *   event=N,xid,CODE[,GI,CI]                 each line is one event in the order of the file; lines that come after nvmlInit
 *   event=N,mig                              are delivered, once each, by nvmlEventSetWait_v2 (mig: the instances changed)
 *
 * Beside NVML's symbols: fake_nvml_calls(name, gpu) says how often a call was made (gpu < 0: on any GPU);
 * fake_nvml_called(i) is the i-th "name gpu" that was called, in no order, NULL past the last. A call on a MIG device's
 * handle counts as "name on an instance" too. Names of what must not happen: "nvmlShutdown during a call" (while another call was under way), "event set used after free".
 */
#define _GNU_SOURCE
#include <errno.h>
#include <pthread.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>

enum { GPUS = 16, MIGS = 7, LINES = 4096, COUNTERS = 8192, SETS = 4096, SENTINEL = -1, OK = 0, EVENT_XID = 8, EVENT_MIG = 0x100, NONE = -1 };
enum { DOUBLE, UINT, ULONG, ULL, SLL, INT, USHORT };  /* NVML_VALUE_TYPE_* */
enum {
    UNINITIALIZED = 1, INVALID_ARGUMENT = 2, NOT_SUPPORTED = 3, NOT_FOUND = 6, INSUFFICIENT_SIZE = 7, TIMEOUT = 10,
    GPU_IS_LOST = 15, VERSION_MISMATCH = 25,
};

/* The structures as nvml.h has them; tests/exporter/test_nvml.py holds them against nvidia-ml-py's ctypes. */
typedef struct { uint64_t total, free, used; } memory_v1;
typedef struct { uint32_t version; uint64_t total, reserved, free, used; } memory_v2;
typedef struct { uint32_t gpu, memory; } utilization;
typedef struct { uint32_t version, sensor; int32_t temperature; } temperature_v1;
typedef struct { char legacy[16]; uint32_t domain, bus, device, id, subsystem; char bus_id[32]; } pci_info;
typedef union { double d; uint32_t ui; uint64_t ull; int64_t sll; int32_t si; uint16_t us; } value_t;
typedef struct { uint32_t field, scope; int64_t stamp, latency; uint32_t type, result; value_t value; } field_value;
typedef struct { void *device; uint64_t type, data; uint32_t gi, ci; } event_data;
typedef struct { uint32_t version; int32_t margin; } margin_v1;
typedef struct {
    uint32_t version;
    uint64_t aggregate_parity, aggregate_secded, aggregate_cor, volatile_parity, volatile_secded, volatile_cor, buckets[5];
    uint32_t exceeded;
} sram_v1;
typedef struct { uint32_t max, high, partial, low, none; } histogram;
typedef struct { uint32_t version; uint8_t cluster[16]; uint32_t status, clique; uint32_t state, mask; uint8_t summary; } fabric_v3;
typedef struct { uint32_t version; uint8_t cluster[16]; uint32_t status, clique; uint32_t state, mask; } fabric_v2;
typedef struct { uint32_t pid; uint64_t memory; uint32_t gi, ci; } process_info;
_Static_assert(sizeof(memory_v2) == 0x28 && sizeof(temperature_v1) == 0xc && sizeof(pci_info) == 68, "ABI");
_Static_assert(sizeof(margin_v1) == 8 && sizeof(sram_v1) == 0x68 && sizeof(histogram) == 20, "ABI");
_Static_assert(sizeof(fabric_v3) == 0x28 && sizeof(fabric_v2) == 0x24 && sizeof(process_info) == 24, "ABI");
_Static_assert(sizeof(field_value) == 40 && sizeof(event_data) == 32 && sizeof(memory_v1) == 24, "ABI");

typedef struct { int gpu, mig; } device;  /* a handle points to one of these */
static device boards[GPUS], instances[GPUS][MIGS];

/* Value names, what they are if the state does not say, and the field (with its value type) that carries them too. */
static const struct { const char *name; int64_t preset; int field, type; } VALUES[] = {
    {"utilization", 42, NONE, 0}, {"memory_utilization", 30, NONE, 0},
    {"memory_total", 85899345920, NONE, 0}, {"memory_used", 64424509440, NONE, 0}, {"memory_reserved", 593494016, NONE, 0},
    {"temperature", 55, NONE, 0}, {"memory_temperature", 61, 82, UINT},
    {"margin", 32, NONE, 0}, {"temperature_shutdown", 92, NONE, 0}, {"temperature_slowdown", 89, NONE, 0},
    {"margin_shutdown", -8, 193, INT}, {"margin_slowdown", -2, 194, INT},
    {"margin_memory_max", 0, 195, INT}, {"margin_gpu_max", 0, 196, INT},
    {"power_mw", 312000, NONE, 0}, {"power_limit_mw", 700000, NONE, 0}, {"power_limit_default_mw", 700000, NONE, 0},
    {"energy_mj", 913377281145, 83, ULL},
    {"clock_sm", 1980, NONE, 0}, {"clock_memory", 2619, NONE, 0},
    {"clock_sm_max", 1980, NONE, 0}, {"clock_memory_max", 2619, NONE, 0}, {"clock_sm_application", 1980, NONE, 0},
    {"throttle_reasons", 0, NONE, 0},
    {"throttle_sw_power_cap_ns", 0, 74, ULL}, {"throttle_sw_thermal_ns", 0, 75, ULL},
    {"throttle_sw_thermal_ns", 0, 269, ULL},
    {"throttle_hw_thermal_ns", 0, 270, ULL}, {"throttle_hw_power_brake_ns", 0, 271, ULL},
    {"ecc_mode", 1, 1, UINT}, {"ecc_pending", 1, 2, UINT}, {"ecc_corrected", 0, 3, ULL}, {"ecc_uncorrected", 0, 4, ULL},
    {"ecc_corrected_lifetime", 0, 5, ULL}, {"ecc_uncorrected_lifetime", 0, 6, ULL},
    {"ecc_corrected_dram", 0, 11, ULL}, {"ecc_uncorrected_dram", 0, 12, ULL},
    {"ecc_corrected_sram", 0, NONE, 0}, {"ecc_uncorrected_sram", 0, NONE, 0}, {"sram_threshold", 0, NONE, 0},
    {"remapped_correctable", 0, 142, UINT}, {"remapped_uncorrectable", 0, 143, UINT},
    {"remap_pending", 0, 144, UINT}, {"remap_failure", 0, 145, UINT},
    {"banks_max", 640, NONE, 0}, {"banks_high", 0, NONE, 0}, {"banks_partial", 0, NONE, 0}, {"banks_low", 0, NONE, 0},
    {"banks_none", 0, NONE, 0},
    {"retired_sbe", 0, 29, UINT}, {"retired_dbe", 0, 30, UINT}, {"retired_pending", 0, 31, UINT},
    {"pcie_replays", 0, 94, UINT},
    {"pcie_generation", 5, NONE, 0}, {"pcie_generation_max", 5, NONE, 0},
    {"pcie_width", 16, NONE, 0}, {"pcie_width_max", 16, NONE, 0},
    {"pcie_sent", 1 << 20, 197, ULL}, {"pcie_received", 1 << 21, 198, ULL},
    {"nvlinks", 18, 91, UINT},
    {"fabric_version", 3, NONE, 0}, {"fabric_state", 3, NONE, 0}, {"fabric_status", 0, NONE, 0},
    {"fabric_health", 0x1aa, NONE, 0}, {"fabric_summary", 1, NONE, 0},
    {"persistence", 1, NONE, 0}, {"processes", 2, NONE, 0}, {"process_memory", 32212254720, NONE, 0},
    {"recovery_action", 0, 230, UINT},
    {"event_types", 0xffff, NONE, 0}, {"throttle_fields", 269, NONE, 0},
};

/* Fields that have an NVLink for their scope: the state's key without the link, and what it is if the state is silent. */
static const struct { const char *name; int64_t preset; int field, type, counter; } LINK_VALUES[] = {
    {"nvlink_state_", 1, 165, UINT, NONE}, {"nvlink_replay_", 0, 161, ULL, 0}, {"nvlink_recovery_", 0, 162, ULL, 1},
    {"nvlink_crc_", 0, 163, ULL, 2}, {"nvlink_receive_", 0, 208, ULL, NONE}, {"nvlink_recovered_", 0, 213, ULL, NONE},
    {"nvlink_recovery_failed_", 0, 214, ULL, NONE},
};

static const struct { const char *name; int code; } ERRORS[] = {
    {"OK", 0}, {"SENTINEL", SENTINEL}, {"UNINITIALIZED", 1}, {"INVALID_ARGUMENT", 2}, {"NOT_SUPPORTED", 3},
    {"NO_PERMISSION", 4}, {"NOT_FOUND", 6}, {"DRIVER_NOT_LOADED", 9}, {"TIMEOUT", 10}, {"FUNCTION_NOT_FOUND", 13},
    {"GPU_IS_LOST", 15}, {"RESET_REQUIRED", 16}, {"LIB_RM_VERSION_MISMATCH", 18}, {"NO_DATA", 21}, {"UNKNOWN", 999},
};

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static struct { char *key, *value; } lines[LINES];
static int line_count, event_count, events_past, initialised, in_call;
static char *text;
static struct stat seen;
static int faults;  /* whether any line is a fault: most states have none, and a benchmark asks often */
static struct { int alive; uint64_t types[GPUS]; } sets[SETS];
static struct { char key[96]; unsigned long n; } counters[COUNTERS];

static void count(const char *name, int gpu) {
    char key[96];
    snprintf(key, sizeof key, "%s %d", name, gpu);
    uint32_t place = 2166136261u;
    for (const char *c = key; *c; c++) place = (place ^ (uint8_t)*c) * 16777619u;
    for (int i = 0; i < COUNTERS; i++, place++) {
        char *here = counters[place % COUNTERS].key;
        if (!here[0]) strcpy(here, key);
        if (!strcmp(here, key)) { counters[place % COUNTERS].n++; return; }
    }
}

__attribute__((visibility("default"))) unsigned long fake_nvml_calls(const char *name, int gpu) {
    unsigned long n = 0;
    char key[96];
    size_t length = strlen(name);
    snprintf(key, sizeof key, "%s %d", name, gpu);
    pthread_mutex_lock(&lock);
    for (int i = 0; i < COUNTERS; i++)
        if (gpu < 0 ? !strncmp(counters[i].key, name, length) && counters[i].key[length] == ' '
                    : !strcmp(counters[i].key, key))
            n += counters[i].n;
    pthread_mutex_unlock(&lock);
    return n;
}

__attribute__((visibility("default"))) const char *fake_nvml_called(int index) {
    const char *found = NULL;
    pthread_mutex_lock(&lock);
    for (int i = 0; i < COUNTERS && !found; i++)
        if (counters[i].key[0] && index-- == 0) found = counters[i].key;
    pthread_mutex_unlock(&lock);
    return found;
}

/* Lines with the same key stay in the file's order: their keys lie in one buffer. */
static int by_key(const void *a, const void *b) {
    const char *left = *(char *const *)a, *right = *(char *const *)b;
    int order = strcmp(left, right);
    return order ? order : (left > right) - (left < right);
}

/* Read the state again if the file is another than last time. With the lock held. */
static void refresh(void) {
    const char *path = getenv("FAKE_NVML_STATE");
    struct stat now;
    if (!path || stat(path, &now)) return;
    if (text && now.st_ino == seen.st_ino && now.st_size == seen.st_size &&
        now.st_mtim.tv_sec == seen.st_mtim.tv_sec && now.st_mtim.tv_nsec == seen.st_mtim.tv_nsec)
        return;
    FILE *file = fopen(path, "re");
    if (!file) return;
    free(text);
    text = calloc(1, (size_t)now.st_size + 1);
    size_t got = fread(text, 1, (size_t)now.st_size, file);
    text[got] = 0;
    fclose(file);
    seen = now;
    line_count = event_count = faults = 0;
    char *rest = text, *line;
    while ((line = strsep(&rest, "\n")) && line_count < LINES) {
        char *equals = strchr(line, '=');
        if (*line == '#' || !equals) continue;
        *equals = 0;
        if (!strcmp(line, "event")) event_count++;
        if (strstr(line, "call.") || strstr(line, "hang.") || strstr(line, "field.") || strstr(line, ".all")) faults = 1;
        lines[line_count].key = line;
        lines[line_count++].value = equals + 1;
    }
    qsort(lines, (size_t)line_count, sizeof lines[0], by_key);
}

static const char *look(const char *key) {
    int low = 0, high = line_count - 1;
    while (low <= high) {
        int middle = (low + high) / 2, order = strcmp(key, lines[middle].key);
        if (!order) return lines[middle].value;
        if (order < 0) high = middle - 1; else low = middle + 1;
    }
    return NULL;
}

static const char *look2(int gpu, const char *kind, const char *name) {
    char key[160];
    const char *found = NULL;
    if (gpu >= 0) {
        snprintf(key, sizeof key, "gpu%d.%s%s", gpu, kind, name);
        found = look(key);
    }
    if (found || !*kind) return found;
    snprintf(key, sizeof key, "%s%s", kind, name);
    return look(key);
}

static int error_code(const char *word) {
    if (!word) return OK;
    for (size_t i = 0; i < sizeof ERRORS / sizeof *ERRORS; i++)
        if (!strcmp(word, ERRORS[i].name)) return ERRORS[i].code;
    return atoi(word);
}

static int is_error(const char *word) {
    for (size_t i = 0; word && i < sizeof ERRORS / sizeof *ERRORS; i++)
        if (!strcmp(word, ERRORS[i].name)) return 1;
    return 0;
}

static int64_t value(int gpu, const char *name) {
    const char *given = look2(gpu, "", name);
    if (given) return strtoll(given, NULL, 0);
    for (size_t i = 0; i < sizeof VALUES / sizeof *VALUES; i++)
        if (!strcmp(VALUES[i].name, name)) return VALUES[i].preset;
    return 0;
}

static int64_t link_value(int gpu, size_t row, unsigned link) {
    char name[64];
    snprintf(name, sizeof name, "%s%u", LINK_VALUES[row].name, link);
    const char *given = look2(gpu, "", name);
    return given ? strtoll(given, NULL, 0) : LINK_VALUES[row].preset;
}

static int gone(int gpu) { return value(gpu, "gone") != 0; }

static double now_seconds(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + (double)t.tv_nsec / 1e9;
}

static void nap(long milliseconds) {
    struct timespec t = {0, milliseconds * 1000000};
    pthread_mutex_unlock(&lock);
    nanosleep(&t, NULL);
    pthread_mutex_lock(&lock);
    refresh();
}

/* Every call begins here: count it, hang if the state says so, and find out what to return. With the lock held. */
static int enter(const char *name, const device *d) {
    int gpu = d ? d->gpu : -1, mig = d && d->mig >= 0;
    refresh();
    count(name, gpu);
    if (mig) {
        char words[96];
        snprintf(words, sizeof words, "%s on an instance", name);
        count(words, gpu);
    }
    in_call++;
    const char *hang;
    double start = now_seconds();
    while (faults && (hang = look2(gpu, mig ? "mighang." : "hang.", name)) && now_seconds() - start < atof(hang)) nap(10);
    in_call--;
    int driver = error_code(look("driver"));
    if (driver) return driver;
    if (!initialised && strncmp(name, "nvmlInit", 8)) return UNINITIALIZED;
    if (d && gone(gpu)) return GPU_IS_LOST;
    if (mig) {
        char row[16];
        snprintf(row, sizeof row, "mig%d", d->mig);
        if (!look2(gpu, "", row)) return INVALID_ARGUMENT;
    }
    if (!faults) return OK;
    const char *all = d ? look2(gpu, "", "all") : NULL;
    return error_code(all ? all : look2(gpu, mig ? "migcall." : "call.", name));
}

#define EXPORT __attribute__((visibility("default")))
/* A whole call: the statements run if it is to answer; `fault` may be SENTINEL there, and they may set `result`. */
#define CALL(DEVICE, ...)                                \
    pthread_mutex_lock(&lock);                           \
    int fault = enter(__func__, (DEVICE)), result = OK;  \
    if (fault == OK || fault == SENTINEL) { __VA_ARGS__; } else result = fault; \
    pthread_mutex_unlock(&lock);                         \
    return result;

/* A call that answers one number of the board. */
#define NUMBER(NAME, TYPE, VALUE)                        \
    EXPORT int NAME(device *d, TYPE *out) {              \
        CALL(d, *out = fault ? (TYPE)~(TYPE)0 : (TYPE)value(d->gpu, VALUE); if (d->mig >= 0) result = NOT_SUPPORTED) \
    }

EXPORT int nvmlInitWithFlags(unsigned flags) {
    (void)flags;
    CALL(NULL, if ((result = error_code(look("init"))) == OK) {
        initialised++;
        events_past = event_count;
    })
}

EXPORT int nvmlInit_v2(void) { return nvmlInitWithFlags(0); }

EXPORT int nvmlShutdown(void) {
    CALL(NULL, if (in_call) count("nvmlShutdown during a call", -1); if (!--initialised) memset(sets, 0, sizeof sets))
}

EXPORT const char *nvmlErrorString(int code) {
    for (size_t i = 0; i < sizeof ERRORS / sizeof *ERRORS; i++)
        if (ERRORS[i].code == code) return ERRORS[i].name;
    return "another error";
}

static int copy(char *to, unsigned room, const char *from) {
    if (strlen(from) >= room) return INSUFFICIENT_SIZE;
    strcpy(to, from);
    return OK;
}

EXPORT int nvmlSystemGetDriverVersion(char *out, unsigned room) {
    CALL(NULL, const char *given = look("driver_version"); result = copy(out, room, given ? given : "570.133.20"))
}

static int gpu_count(void) {
    const char *given = look("gpus");
    int n = given ? atoi(given) : 1;
    return n > GPUS ? GPUS : n;
}

EXPORT int nvmlDeviceGetCount_v2(unsigned *out) {
    CALL(NULL, *out = fault ? ~0u : 0; for (int i = 0; !fault && i < gpu_count(); i++) *out += !gone(i))
}

EXPORT int nvmlDeviceGetHandleByIndex_v2(unsigned index, device **out) {
    device *found = NULL;
    pthread_mutex_lock(&lock);
    refresh();
    for (int i = 0, n = 0; i < gpu_count(); i++)
        if (!gone(i) && n++ == (int)index) {
            found = &boards[i];
            *found = (device){i, -1};
        }
    pthread_mutex_unlock(&lock);
    CALL(found, if (found) *out = found; else result = INVALID_ARGUMENT)
}

static int mig_field(const device *d, int field, char *out, unsigned room) {
    char key[32];
    snprintf(key, sizeof key, "mig%d", d->mig);
    const char *given = look2(d->gpu, "", key);
    if (!given) return NOT_FOUND;
    char row[512];
    snprintf(row, sizeof row, "%s", given);
    char *rest = row, *part = NULL;
    for (int i = 0; i <= field; i++) part = strsep(&rest, ",");
    return part ? copy(out, room, part) : NOT_FOUND;
}

static int64_t mig_number(const device *d, int field) {
    char word[64];
    return mig_field(d, field, word, sizeof word) ? 0 : strtoll(word, NULL, 0);
}

static int identity(const device *d, const char *name, const char *preset, int field, char *out, unsigned room, int fault) {
    char made[96];
    if (fault) {  /* no text in any encoding that matters */
        memset(out, 0xff, room - 1);
        out[room - 1] = 0;
        return OK;
    }
    if (d->mig >= 0) return mig_field(d, field, out, room);
    const char *given = look2(d->gpu, "", name);
    snprintf(made, sizeof made, preset, d->gpu);
    return copy(out, room, given ? given : made);
}

EXPORT int nvmlDeviceGetUUID(device *d, char *out, unsigned room) {
    CALL(d, result = identity(d, "uuid", "GPU-00000000-0000-0000-0000-00000000000%x", 2, out, room, fault))
}

EXPORT int nvmlDeviceGetName(device *d, char *out, unsigned room) {
    CALL(d, result = identity(d, "name", "NVIDIA H100 80GB HBM3", 3, out, room, fault))
}

EXPORT int nvmlDeviceGetPciInfo_v3(device *d, pci_info *out) {
    CALL(d, memset(out, 0, sizeof *out); result = identity(d, "pci", "00000000:%02X:00.0", 0, out->bus_id, 32, fault))
}

static void memory(const device *d, uint64_t *total, uint64_t *used, uint64_t *reserved, uint64_t *available) {
    *total = (uint64_t)(d->mig >= 0 ? mig_number(d, 4) : value(d->gpu, "memory_total"));
    *used = (uint64_t)(d->mig >= 0 ? mig_number(d, 5) : value(d->gpu, "memory_used"));
    *reserved = d->mig >= 0 ? 0 : (uint64_t)value(d->gpu, "memory_reserved");
    *available = *total - *used - *reserved;
}

EXPORT int nvmlDeviceGetMemoryInfo_v2(device *d, memory_v2 *out) {
    CALL(d, if (out->version != (sizeof(memory_v2) | 2 << 24)) result = VERSION_MISMATCH;
         else if (fault) memset(&out->total, 0xff, sizeof *out - offsetof(memory_v2, total));
         else memory(d, &out->total, &out->used, &out->reserved, &out->free))
}

EXPORT int nvmlDeviceGetMemoryInfo(device *d, memory_v1 *out) {
    CALL(d, uint64_t reserved; memory(d, &out->total, &out->used, &reserved, &out->free); out->used += reserved;
         if (fault) memset(out, 0xff, sizeof *out))
}

EXPORT int nvmlDeviceGetUtilizationRates(device *d, utilization *out) {
    CALL(d, out->gpu = (uint32_t)value(d->gpu, "utilization");
         out->memory = (uint32_t)value(d->gpu, "memory_utilization");
         if (fault) memset(out, 0xff, sizeof *out);
         if (d->mig >= 0 || value(d->gpu, "mig_mode")) result = NOT_SUPPORTED)
}

EXPORT int nvmlDeviceGetTemperatureV(device *d, temperature_v1 *out) {
    CALL(d, out->temperature = fault ? -1 : (int32_t)value(d->gpu, "temperature");
         if (out->version != (sizeof *out | 1 << 24)) result = VERSION_MISMATCH; else if (d->mig >= 0) result = NOT_SUPPORTED)
}

EXPORT int nvmlDeviceGetTemperature(device *d, unsigned sensor, uint32_t *out) {
    (void)sensor;
    CALL(d, *out = fault ? ~0u : (uint32_t)value(d->gpu, "temperature"); if (d->mig >= 0) result = NOT_SUPPORTED)
}

/* NVML's clock types: 1 SM, 2 memory. */
EXPORT int nvmlDeviceGetClockInfo(device *d, unsigned type, uint32_t *out) {
    CALL(d, *out = fault ? ~0u : (uint32_t)value(d->gpu, type == 1 ? "clock_sm" : "clock_memory");
         if (d->mig >= 0) result = NOT_SUPPORTED)
}

EXPORT int nvmlDeviceGetMaxClockInfo(device *d, unsigned type, uint32_t *out) {
    CALL(d, *out = fault ? ~0u : (uint32_t)value(d->gpu, type == 1 ? "clock_sm_max" : "clock_memory_max");
         if (d->mig >= 0) result = NOT_SUPPORTED)
}

NUMBER(nvmlDeviceGetPowerUsage, uint32_t, "power_mw")
NUMBER(nvmlDeviceGetEnforcedPowerLimit, uint32_t, "power_limit_mw")
NUMBER(nvmlDeviceGetPowerManagementDefaultLimit, uint32_t, "power_limit_default_mw")
NUMBER(nvmlDeviceGetTotalEnergyConsumption, uint64_t, "energy_mj")
NUMBER(nvmlDeviceGetCurrentClocksEventReasons, uint64_t, "throttle_reasons")
NUMBER(nvmlDeviceGetCurrentClocksThrottleReasons, uint64_t, "throttle_reasons")
NUMBER(nvmlDeviceGetPcieReplayCounter, uint32_t, "pcie_replays")
NUMBER(nvmlDeviceGetCurrPcieLinkGeneration, uint32_t, "pcie_generation")
NUMBER(nvmlDeviceGetMaxPcieLinkGeneration, uint32_t, "pcie_generation_max")
NUMBER(nvmlDeviceGetCurrPcieLinkWidth, uint32_t, "pcie_width")
NUMBER(nvmlDeviceGetMaxPcieLinkWidth, uint32_t, "pcie_width_max")

NUMBER(nvmlDeviceGetPersistenceMode, uint32_t, "persistence")
NUMBER(nvmlDeviceGetRetiredPagesPendingStatus, uint32_t, "retired_pending")

EXPORT int nvmlDeviceGetMinorNumber(device *d, uint32_t *out) {
    CALL(d, *out = fault ? ~0u : (uint32_t)d->gpu; if (d->mig >= 0) result = NOT_SUPPORTED)
}

/* NVML's thresholds: 0 shutdown, 1 slowdown. */
EXPORT int nvmlDeviceGetTemperatureThreshold(device *d, unsigned type, uint32_t *out) {
    CALL(d, *out = fault ? ~0u : (uint32_t)value(d->gpu, type ? "temperature_slowdown" : "temperature_shutdown");
         if (d->mig >= 0) result = NOT_SUPPORTED; else if (type > 1) result = INVALID_ARGUMENT)
}

EXPORT int nvmlDeviceGetMarginTemperature(device *d, margin_v1 *out) {
    CALL(d, out->margin = fault ? INT32_MIN : (int32_t)value(d->gpu, "margin");
         if (out->version != (sizeof *out | 1 << 24)) result = VERSION_MISMATCH; else if (d->mig >= 0) result = NOT_SUPPORTED)
}

EXPORT int nvmlDeviceGetApplicationsClock(device *d, unsigned type, uint32_t *out) {
    CALL(d, *out = fault ? ~0u : (uint32_t)value(d->gpu, type == 1 ? "clock_sm_application" : "clock_memory");
         if (d->mig >= 0) result = NOT_SUPPORTED)
}

EXPORT int nvmlDeviceGetEccMode(device *d, uint32_t *current, uint32_t *pending) {
    CALL(d, *current = fault ? ~0u : (uint32_t)value(d->gpu, "ecc_mode");
         *pending = fault ? ~0u : (uint32_t)value(d->gpu, "ecc_pending");
         if (d->mig >= 0) result = NOT_SUPPORTED)
}

/* While MIG is on, volatile errors are told of the instances alone, and only those that could not be corrected. */
static int ecc_is_told(const device *d, unsigned type, unsigned counter, int dram) {
    if (d->mig >= 0) return type == 1 && counter == 0 && !dram;
    return counter == 1 || !value(d->gpu, "mig_mode");
}

static int64_t instance_ecc(const device *d) {
    char name[32];
    snprintf(name, sizeof name, "mig%d_ecc_uncorrected", d->mig);
    return value(d->gpu, name);
}

EXPORT int nvmlDeviceGetTotalEccErrors(device *d, unsigned type, unsigned counter, uint64_t *out) {
    static const char *names[2][2] = {{"ecc_corrected", "ecc_corrected_lifetime"},
                                      {"ecc_uncorrected", "ecc_uncorrected_lifetime"}};
    CALL(d, if (!ecc_is_told(d, type, counter, 0)) result = NOT_SUPPORTED;
         else *out = fault ? ~0ull : (uint64_t)(d->mig >= 0 ? instance_ecc(d) : value(d->gpu, names[type & 1][counter & 1])))
}

/* NVML's places: 2 DRAM, 7 SRAM; the others are not known here, and lifetime counters neither. */
EXPORT int nvmlDeviceGetMemoryErrorCounter(device *d, unsigned type, unsigned counter, unsigned place, uint64_t *out) {
    static const char *names[2][2] = {{"ecc_corrected_dram", "ecc_corrected_sram"},
                                      {"ecc_uncorrected_dram", "ecc_uncorrected_sram"}};
    CALL(d, if ((place != 2 && place != 7) || counter || !ecc_is_told(d, type, counter, place == 2)) result = NOT_SUPPORTED;
         else *out = fault ? ~0ull : (uint64_t)(d->mig >= 0 ? instance_ecc(d) : value(d->gpu, names[type & 1][place == 7])))
}

EXPORT int nvmlDeviceGetSramEccErrorStatus(device *d, sram_v1 *out) {
    CALL(d, if (out->version != (sizeof *out | 1 << 24)) result = VERSION_MISMATCH;
         else if (d->mig >= 0) result = NOT_SUPPORTED;
         else if (fault) memset(&out->aggregate_parity, 0xff, sizeof *out - offsetof(sram_v1, aggregate_parity));
         else {
             *out = (sram_v1){.version = out->version, .exceeded = (uint32_t)value(d->gpu, "sram_threshold")};
             out->volatile_cor = (uint64_t)value(d->gpu, "ecc_corrected_sram");
             out->volatile_secded = (uint64_t)value(d->gpu, "ecc_uncorrected_sram") / 2;
             out->volatile_parity = (uint64_t)value(d->gpu, "ecc_uncorrected_sram") - out->volatile_secded;
         })
}

EXPORT int nvmlDeviceGetRowRemapperHistogram(device *d, histogram *out) {
    CALL(d, if (d->mig >= 0) result = NOT_SUPPORTED; else if (fault) memset(out, 0xff, sizeof *out);
         else *out = (histogram){
             (uint32_t)value(d->gpu, "banks_max"), (uint32_t)value(d->gpu, "banks_high"),
             (uint32_t)value(d->gpu, "banks_partial"), (uint32_t)value(d->gpu, "banks_low"),
             (uint32_t)value(d->gpu, "banks_none")})
}

/* NVML's causes: 0 several single-bit errors, 1 a double-bit error. Without a buffer the call tells how large it must be. */
EXPORT int nvmlDeviceGetRetiredPages(device *d, unsigned cause, uint32_t *n, uint64_t *pages) {
    CALL(d, uint32_t room = pages ? *n : 0; *n = (uint32_t)value(d->gpu, cause ? "retired_dbe" : "retired_sbe");
         if (fault && !*n) *n = 1;
         if (d->mig >= 0) result = NOT_SUPPORTED; else if (*n > room) result = INSUFFICIENT_SIZE;
         else for (uint32_t i = 0; i < *n; i++) pages[i] = fault ? ~0ull : 0x10000ull * (i + 1))
}

/* The processes of a line PID:BYTES,PID:BYTES. */
static int listed(const char *line, int fault, uint32_t *n, process_info *infos) {
    uint32_t room = infos ? *n : 0, found = 0;
    for (const char *at = line; *at; found++) {
        char *end;
        uint32_t pid = (uint32_t)strtoul(at, &end, 10);
        uint64_t memory = *end == ':' && end[1] != '-' && !fault ? strtoull(end + 1, NULL, 0) : ~0ull;
        if (found < room) infos[found] = (process_info){pid, memory, ~0u, ~0u};
        at = strchr(end, ',');
        if (!at) { found++; break; }
        at++;
    }
    *n = found;
    return found > room ? INSUFFICIENT_SIZE : OK;
}

static int processes(const device *d, int fault, uint32_t *n, process_info *infos) {
    char key[32];
    snprintf(key, sizeof key, d->mig >= 0 ? "mig%d_pids" : "pids", d->mig);
    const char *line = look2(d->gpu, "", key);
    if (line) return listed(line, fault, n, infos);
    int64_t held = d->mig >= 0 ? 0 : value(d->gpu, "process_memory");
    uint32_t room = infos ? *n : 0;
    *n = (uint32_t)value(d->gpu, "processes");
    if (d->mig >= 0) {
        char word[64];
        *n = 0;
        if (!mig_field(d, 5, word, sizeof word) && (held = strtoll(word, NULL, 0))) *n = 1;
    }
    if (fault && !*n) *n = 1;
    if (*n > room) return INSUFFICIENT_SIZE;
    for (uint32_t i = 0; i < *n; i++) infos[i] = (process_info){1000 + i, fault ? ~0ull : (uint64_t)held, ~0u, ~0u};
    return OK;
}

EXPORT int nvmlDeviceGetComputeRunningProcesses_v3(device *d, uint32_t *n, process_info *infos) {
    CALL(d, result = processes(d, fault, n, infos))
}

EXPORT int nvmlDeviceGetComputeRunningProcesses_v2(device *d, uint32_t *n, process_info *infos) {
    CALL(d, result = processes(d, fault, n, infos))
}

EXPORT int nvmlDeviceGetGpuFabricInfoV(device *d, fabric_v3 *out) {
    CALL(d, int version = (int)(out->version >> 24); uint32_t size = version == 3 ? sizeof(fabric_v3) : sizeof(fabric_v2);
         if ((version != 2 && version != 3) || version > value(d->gpu, "fabric_version") || (out->version & 0xffffff) != size)
             result = VERSION_MISMATCH;
         else if (d->mig >= 0) result = NOT_SUPPORTED;
         else if (fault) memset(out->cluster, 0xff, (version == 3 ? offsetof(fabric_v3, summary) + 1 : size) - 4);
         else {
             out->status = (uint32_t)value(d->gpu, "fabric_status");
             out->state = (uint32_t)value(d->gpu, "fabric_state");
             out->mask = (uint32_t)value(d->gpu, "fabric_health");
             if (version == 3) out->summary = (uint8_t)value(d->gpu, "fabric_summary");
         })
}

EXPORT int nvmlDeviceGetNvLinkState(device *d, unsigned link, uint32_t *out) {
    CALL(d, if (link >= value(d->gpu, "nvlinks")) result = INVALID_ARGUMENT; else if (d->mig >= 0) result = NOT_SUPPORTED;
         else *out = fault ? ~0u : link_value(d->gpu, 0, link) == 1 || link_value(d->gpu, 0, link) == 2)
}

EXPORT int nvmlDeviceGetNvLinkErrorCounter(device *d, unsigned link, unsigned counter, uint64_t *out) {
    CALL(d, result = link >= value(d->gpu, "nvlinks") ? INVALID_ARGUMENT : NOT_SUPPORTED;
         for (size_t i = 0; result == NOT_SUPPORTED && d->mig < 0 && i < sizeof LINK_VALUES / sizeof *LINK_VALUES; i++)
             if (LINK_VALUES[i].counter == (int)counter) {
                 *out = fault ? ~0ull : (uint64_t)link_value(d->gpu, i, link);
                 result = OK;
             })
}

EXPORT int nvmlDeviceGetRemappedRows(device *d, uint32_t *cor, uint32_t *unc, uint32_t *pending, uint32_t *failure) {
    CALL(d, *cor = fault ? ~0u : (uint32_t)value(d->gpu, "remapped_correctable");
         *unc = fault ? ~0u : (uint32_t)value(d->gpu, "remapped_uncorrectable");
         *pending = fault ? ~0u : (uint32_t)value(d->gpu, "remap_pending");
         *failure = fault ? ~0u : (uint32_t)value(d->gpu, "remap_failure"))
}

static void set_value(field_value *v, int type, int64_t number) {
    v->type = (uint32_t)type;
    v->result = OK;
    memset(&v->value, 0xa5, sizeof v->value);  /* what lies beside the member in use is not zero */
    if (type == UINT) v->value.ui = (uint32_t)number;
    else if (type == INT) v->value.si = (int32_t)number;
    else v->value.ull = (uint64_t)number;
}

static void answer_field(const device *d, field_value *v, int sentinel) {
    char id[32];
    const char *given = NULL;
    if (faults) {
        snprintf(id, sizeof id, "%u.%u", v->field, v->scope);
        if (!(given = look2(d->gpu, "field.", id))) {
            snprintf(id, sizeof id, "%u", v->field);
            given = look2(d->gpu, "field.", id);
        }
    }
    int number_given = given && !is_error(given), volatile_ecc = v->field == 3 || v->field == 4 || v->field == 11 || v->field == 12;
    int64_t number = number_given ? strtoll(given, NULL, 0) : 0, first = value(d->gpu, "throttle_fields");
    uint32_t field = v->field;
    v->result = NOT_SUPPORTED;
    if (first != 269 && field >= (uint64_t)first && field < (uint64_t)first + 3) field = 269 + (field - (uint32_t)first);
    else if (first != 269 && field >= 269 && field <= 271) {
        set_value(v, UINT, 60);  /* power smoothing: a share in percent, a ramp rate */
        return;
    }
    for (size_t i = 0; i < sizeof VALUES / sizeof *VALUES; i++)
        if (VALUES[i].field == (int)field && !(volatile_ecc && value(d->gpu, "mig_mode")))
            set_value(v, VALUES[i].type, number_given ? number : value(d->gpu, VALUES[i].name));
    for (size_t i = 0; i < sizeof LINK_VALUES / sizeof *LINK_VALUES; i++)
        if (LINK_VALUES[i].field == (int)field) {
            if (v->scope < value(d->gpu, "nvlinks"))
                set_value(v, LINK_VALUES[i].type, number_given ? number : link_value(d->gpu, i, v->scope));
            else v->result = INVALID_ARGUMENT;
        }
    int fault = is_error(given) ? error_code(given) : sentinel ? SENTINEL : OK;
    if (fault == SENTINEL && v->result == OK) {
        memset(&v->value, 0xff, sizeof v->value);
        if (v->type == INT) v->value.si = INT32_MIN;
    } else if (fault != OK && fault != SENTINEL) v->result = (uint32_t)fault;
}

EXPORT int nvmlDeviceGetFieldValues(device *d, int n, field_value *values) {
    CALL(d, for (int i = 0; i < n; i++) answer_field(d, &values[i], fault == SENTINEL))
}

EXPORT int nvmlDeviceGetMigMode(device *d, uint32_t *current, uint32_t *pending) {
    CALL(d, *current = *pending = fault ? ~0u : (uint32_t)value(d->gpu, "mig_mode"))
}

EXPORT int nvmlDeviceGetMaxMigDeviceCount(device *d, uint32_t *out) {
    CALL(d, *out = fault ? ~0u : value(d->gpu, "mig_mode") ? MIGS : 0)
}

EXPORT int nvmlDeviceGetMigDeviceHandleByIndex(device *d, unsigned index, device **out) {
    CALL(d, if (index >= MIGS) result = INVALID_ARGUMENT; else {
        char word[8];
        device *mig = &instances[d->gpu][index];
        *mig = (device){d->gpu, (int)index};
        if ((result = mig_field(mig, 0, word, sizeof word)) == OK) *out = mig;
    })
}

EXPORT int nvmlDeviceGetGpuInstanceId(device *d, uint32_t *out) {
    CALL(d, *out = fault ? ~0u : (uint32_t)mig_number(d, 0); if (d->mig < 0) result = NOT_SUPPORTED)
}

EXPORT int nvmlDeviceGetSupportedEventTypes(device *d, uint64_t *out) {
    CALL(d, *out = fault ? ~0ull : (uint64_t)value(d->gpu, "event_types"))
}

EXPORT int nvmlEventSetCreate(void **out) {
    CALL(NULL, result = INSUFFICIENT_SIZE; for (int i = 0; i < SETS; i++) if (!sets[i].alive) {
        memset(&sets[i], 0, sizeof sets[i]);
        sets[i].alive = 1;
        *out = &sets[i];
        result = OK;
        break;
    })
}

/* The set, or NULL if it was freed, which would be the end of a process with a real driver. */
static uint64_t *types_of(void *set) {
    int i = (int)((__typeof__(&sets[0]))set - sets);
    if (i >= 0 && i < SETS && sets[i].alive) return sets[i].types;
    if (initialised) count("event set used after free", -1);
    return NULL;
}

EXPORT int nvmlEventSetFree(void *set) {
    CALL(NULL, if (!types_of(set)) result = INVALID_ARGUMENT;
         else ((__typeof__(&sets[0]))set)->alive = 0)
}

EXPORT int nvmlDeviceRegisterEvents(device *d, uint64_t types, void *set) {
    CALL(d, uint64_t *registered = types_of(set);
         if (!registered) result = INVALID_ARGUMENT;
         else if (types & ~(uint64_t)value(d->gpu, "event_types")) result = NOT_SUPPORTED;
         else registered[d->gpu] |= types)
}

/* The next event line after those that have been delivered, if there is one; one that nobody waits for is gone. */
static int next_event(const uint64_t *registered, event_data *out) {
    for (int i = 0, n = 0; i < line_count; i++) {
        int gpu = 0, code = 0, gi = -1, ci = -1;
        char kind[8] = "";
        if (strcmp(lines[i].key, "event") || n++ != events_past) continue;
        events_past++;
        if (sscanf(lines[i].value, "%d,%7[a-z],%d,%d,%d", &gpu, kind, &code, &gi, &ci) < 2 || gpu < 0 || gpu >= GPUS) continue;
        uint64_t type = strcmp(kind, "mig") ? EVENT_XID : EVENT_MIG;
        if (!(registered[gpu] & type)) continue;
        *out = (event_data){&boards[gpu], type, (uint64_t)code, (uint32_t)gi, (uint32_t)ci};
        return 1;
    }
    return 0;
}

EXPORT int nvmlEventSetWait_v2(void *set, event_data *out, unsigned milliseconds) {
    double start = now_seconds();
    CALL(NULL, in_call++; uint64_t *registered; result = INVALID_ARGUMENT;
         while ((registered = types_of(set)) && (result = OK, !next_event(registered, out))) {
             result = TIMEOUT;
             if (now_seconds() - start >= milliseconds / 1e3) break;
             nap(milliseconds < 50 ? milliseconds : 50);
         } in_call--)
}
