/* The six instructions of AMX that products of bfloat16 need, on processors without them.

   Such a processor raises SIGILL where one of them stands. The handler decodes its bytes, does to memory and to the
   tiles of its thread what Intel's manual says (64 and IA-32 Architectures Software Developer's Manual, volume 2), and
   goes on behind it. So the machine code itself runs: its encoding, addresses, strides and order of registers. What the
   manual forbids goes on to the handler that was there before. */

#define _GNU_SOURCE
#include <math.h>
#include <signal.h>
#include <stdint.h>
#include <string.h>
#include <ucontext.h>
#include <xmmintrin.h>

enum { TILES = 8, ROWS = 16, ROW_BYTES = 64, FLUSH = 0x8040 };

static __thread struct {
    uint8_t palette;
    uint8_t rows[TILES];
    uint16_t bytes[TILES];
    uint8_t data[TILES][ROWS][ROW_BYTES];
} state;

static struct sigaction before;
static volatile long done;

typedef struct {
    int reg, rm, vvvv, prefix, opcode, memory, indexed;
    uint64_t address, stride;
    int length;
} Instruction;

static const int PLACES[16] = {REG_RAX, REG_RCX, REG_RDX, REG_RBX, REG_RSP, REG_RBP, REG_RSI, REG_RDI,
                               REG_R8,  REG_R9,  REG_R10, REG_R11, REG_R12, REG_R13, REG_R14, REG_R15};

static int decode(const uint8_t *code, greg_t *registers, Instruction *found) {
    if (code[0] != 0xC4 || (code[1] & 0x1F) != 2 || code[2] & 0x84) /* VEX, map 0F38, W0, 128 bits */
        return 0;
    int r = !(code[1] & 0x80), x = !(code[1] & 0x40), b = !(code[1] & 0x20);
    int modrm = code[4], mod = modrm >> 6, at = 5;
    found->prefix = code[2] & 3;
    found->vvvv = ~(code[2] >> 3) & 15;
    found->opcode = code[3];
    found->reg = (modrm >> 3 & 7) | r << 3;
    found->rm = (modrm & 7) | b << 3;
    found->memory = mod != 3;
    found->indexed = 0;
    found->stride = 0;
    if (found->memory) {
        uint64_t address = 0;
        int wide = mod == 2, relative = 0;
        if ((modrm & 7) == 4) {
            int sib = code[at++], index = (sib >> 3 & 7) | x << 3, base = (sib & 7) | b << 3;
            found->indexed = 1;
            if (index != 4)
                found->stride = (uint64_t)registers[PLACES[index]] << (sib >> 6);
            if ((sib & 7) == 5 && mod == 0)
                wide = 1;
            else
                address = registers[PLACES[base]];
        } else if ((modrm & 7) == 5 && mod == 0) {
            wide = relative = 1;
        } else {
            address = registers[PLACES[found->rm]];
        }
        if (wide) {
            int32_t offset;
            memcpy(&offset, code + at, 4);
            at += 4;
            address += (int64_t)offset;
        } else if (mod == 1) {
            address += (int64_t)(int8_t)code[at++];
        }
        found->address = relative ? address + (uint64_t)code + at : address;
    }
    found->length = at;
    return 1;
}

static int configure(const uint8_t *from) {
    memset(&state, 0, sizeof state);
    for (int byte = 1; byte < 16; byte++)
        if (from[byte])
            return 0;
    for (int tile = 0; tile < 16; tile++) {
        uint16_t bytes;
        memcpy(&bytes, from + 16 + 2 * tile, 2);
        int rows = from[48 + tile];
        if (tile < TILES ? bytes > ROW_BYTES || rows > ROWS || !bytes != !rows : bytes || rows)
            return 0;
        if (tile < TILES) {
            state.bytes[tile] = bytes;
            state.rows[tile] = rows;
        }
    }
    state.palette = from[0];
    return from[0] == 1;
}

static float widened(const uint8_t *from) {
    uint16_t half;
    memcpy(&half, from, 2);
    uint32_t bits = (uint32_t)half << 16;
    float number;
    memcpy(&number, &bits, 4);
    return number;
}

static int multiply(int sums, int left, int right) {
    if (sums == left || sums == right || left == right || state.rows[left] != state.rows[sums] ||
        state.bytes[right] != state.bytes[sums] || 4 * state.rows[right] != state.bytes[left] || state.bytes[sums] % 4)
        return 0;
    unsigned int control = _mm_getcsr();
    _mm_setcsr(0x1F80 | FLUSH);
    int pairs = state.bytes[left] / 4, columns = state.bytes[sums] / 4;
    for (int row = 0; row < state.rows[sums]; row++)
        for (int column = 0; column < columns; column++) {
            float first = 0, second = 0, sum;
            for (int pair = 0; pair < pairs; pair++) {
                const uint8_t *a = state.data[left][row] + 4 * pair, *b = state.data[right][pair] + 4 * column;
                first = fmaf(widened(a), widened(b), first);
                second = fmaf(widened(a + 2), widened(b + 2), second);
            }
            uint8_t *to = state.data[sums][row] + 4 * column;
            memcpy(&sum, to, 4);
            sum += first + second;
            memcpy(to, &sum, 4);
        }
    _mm_setcsr(control);
    return 1;
}

static int run(const Instruction *now) {
    enum { NONE, P66, F3, F2 };
    int tile = now->reg, known = tile < TILES && state.palette;
    if (now->opcode == 0x49 && now->prefix == NONE && now->vvvv == 0 && now->memory && tile == 0)
        return configure((const uint8_t *)now->address);
    if (now->opcode == 0x49 && now->prefix == NONE && now->vvvv == 0 && !now->memory && tile == 0 && now->rm == 0) {
        memset(&state, 0, sizeof state);
        return 1;
    }
    if (!known)
        return 0;
    if (now->opcode == 0x49 && now->prefix == F2 && now->vvvv == 0 && !now->memory && now->rm == 0) {
        memset(state.data[tile], 0, sizeof state.data[tile]);
        return 1;
    }
    if (now->opcode == 0x4B && now->vvvv == 0 && now->memory && now->indexed && state.rows[tile]) {
        for (int row = 0; row < state.rows[tile]; row++) {
            uint8_t *memory = (uint8_t *)(now->address + row * now->stride), *data = state.data[tile][row];
            if (now->prefix == F2) {
                memset(data, 0, ROW_BYTES);
                memcpy(data, memory, state.bytes[tile]);
            } else if (now->prefix == F3) {
                memcpy(memory, data, state.bytes[tile]);
            } else {
                return 0;
            }
        }
        return 1;
    }
    if (now->opcode == 0x5C && now->prefix == F3 && !now->memory && now->rm < TILES && now->vvvv < TILES)
        return multiply(tile, now->rm, now->vvvv);
    return 0;
}

static void on_illegal(int number, siginfo_t *information, void *context) {
    (void)number, (void)information;
    greg_t *registers = ((ucontext_t *)context)->uc_mcontext.gregs;
    Instruction now = {0};
    if (decode((const uint8_t *)registers[REG_RIP], registers, &now) && run(&now)) {
        registers[REG_RIP] += now.length;
        __sync_fetch_and_add(&done, 1);
        return;
    }
    /* The instruction is met once more, and then by whoever handled it before. */
    sigaction(SIGILL, &before, NULL);
}

/* Returns 0 once illegal instructions of the process come here. */
int amx_install(void) {
    struct sigaction action;
    memset(&action, 0, sizeof action);
    action.sa_sigaction = on_illegal;
    action.sa_flags = SA_SIGINFO | SA_NODEFER;
    return sigaction(SIGILL, &action, &before);
}

int amx_remove(void) { return sigaction(SIGILL, &before, NULL); }

/* How many instructions have been done here; none on a processor that knows them. */
long amx_done(void) { return done; }
