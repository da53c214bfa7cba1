/*
 * The advanced interrupt architecture (AIA 1.0): interrupt files through CSRs and memory, top
 * interrupts, traps from both levels' files, messages to another hart, and the APLIC with the
 * UART's transmitter-empty interrupt (source 10) in both domains.
 */
#include "rt.h"

const char guest_name[] = "aia";

enum { UART_IRQ = 10 };

#define IMSIC_M(hart)   (0x24000000ul + 0x1000ul * (hart))
#define IMSIC_S(hart)   (0x28000000ul + 0x1000ul * (hart))
#define APLIC_M         0x0c000000ul
#define APLIC_S         0x0d000000ul
#define DOMAINCFG       0x0000
#define SOURCECFG(n)    (4ul * (n))
#define MMSIADDRCFG     0x1bc0
#define SETIP(w)        (0x1c00 + 4ul * (w))
#define IN_CLRIP(w)     (0x1d00 + 4ul * (w))
#define SETIENUM        0x1edc
#define CLRIENUM        0x1fdc
#define SETIPNUM_LE     0x2000
#define GENMSI          0x3000
#define TARGET(n)       (0x3000 + 4ul * (n))
#define DELEGATE        0x400
#define EDGE1           4
#define LEVEL1          6
#define DOMAIN_ENABLED  0x100
#define UART_IER        (UART_BASE + 1)

#define siselect 0x150
#define sireg    0x151
#define stopei   0x15c
#define stopi    0xdb0
#define miselect 0x350
#define mireg    0x351
#define mtopei   0x35c
#define mtopi    0xfb0
#define mvien    0x308
#define mvip     0x309

#define EIDELIVERY  0x70
#define EITHRESHOLD 0x72
#define EIP(w)      (0x80 + 2 * (w))
#define EIE(w)      (0xc0 + 2 * (w))
#define MEIP        (1ul << 11)
#define SEIP        (1ul << 9)
#define TOPEI(id)   ((u64)(id) << 16 | (id))

/* csr_read and friends of a number that a macro names. */
#define READ(csr)       csr_read(csr)
#define WRITE(csr, v)   csr_write(csr, v)
#define CLAIM(csr)                                                                                 \
    ({                                                                                             \
        unsigned long v_;                                                                          \
        __asm__ volatile("csrrw %0, " CSR_STR(csr) ", zero" : "=r"(v_)::"memory");                 \
        v_;                                                                                        \
    })

static void m_put(u64 number, u64 value)
{
    WRITE(miselect, number);
    WRITE(mireg, value);
}

static u64 m_get(u64 number)
{
    WRITE(miselect, number);
    return READ(mireg);
}

static void s_put(u64 number, u64 value)
{
    WRITE(siselect, number);
    WRITE(sireg, value);
}

static u64 s_get(u64 number)
{
    WRITE(siselect, number);
    return READ(sireg);
}

static void clear_files(void)
{
    for (int word = 0; word < 4; word++) {
        m_put(EIP(word), 0);
        m_put(EIE(word), 0);
        s_put(EIP(word), 0);
        s_put(EIE(word), 0);
    }
    m_put(EITHRESHOLD, 0);
    s_put(EITHRESHOLD, 0);
    m_put(EIDELIVERY, 1);
    s_put(EIDELIVERY, 1);
}

/* A message may travel. */
static u64 wait_mip(u64 mask, u64 want)
{
    u64 v = 0;
    for (u64 end = *MTIME + TIMEBASE; *MTIME < end;) {
        v = csr_read(mip) & mask;
        if (v == want) {
            break;
        }
    }
    return v;
}

static void registers(void)
{
    static const u64 words[] = {~0ul & ~1ul, ~0ul, ~0ul, ~0ul};
    for (u64 word = 0; word < 4; word++) {
        m_put(EIE(word), ~0ul);
        CHECK_EQ(m_get(EIE(word)), words[word], "machine eie%d", (int)(2 * word));
        s_put(EIE(word), ~0ul);
        CHECK_EQ(s_get(EIE(word)), words[word], "supervisor eie%d", (int)(2 * word));
    }
    for (u64 value = 0; value < 2; value++) {
        s_put(EIDELIVERY, value);
        CHECK_EQ(s_get(EIDELIVERY), value, "eidelivery holds %d", (int)value);
    }
    s_put(EITHRESHOLD, 255);
    CHECK_EQ(s_get(EITHRESHOLD), 255, "eithreshold holds 255");
    WRITE(siselect, EIP(0) + 1);
    TRY("csrr zero, 0x151", OUT(), IN());
    check_trap(2, 0x15102073, "eip1 does not exist in RV64");
    WRITE(siselect, 0x31);
    TRY("csrr zero, 0x151", OUT(), IN());
    check_trap(2, 0x15102073, "iprio1 does not exist in RV64");
    WRITE(siselect, 0x00);
    TRY("csrr zero, 0x151", OUT(), IN());
    check_trap(2, 0x15102073, "nothing is selected");
    TRY("csrw 0xfb0, zero", OUT(), IN());
    check_trap(2, 0xfb001073, "mtopi is read-only");
    WRITE(siselect, 0xff);
    CHECK_EQ(READ(siselect), 0xff, "siselect holds eight bits");
    WRITE(miselect, 0x70);
    CHECK_EQ(READ(siselect), 0xff, "miselect is another register");
    clear_files();
}

static void files(void)
{
    clear_files();
    s_put(EIE(0), 1ul << 5 | 1ul << 9);
    write32(IMSIC_S(0), 9);
    CHECK_EQ(wait_mip(SEIP | MEIP, SEIP), SEIP, "a stored identity is a supervisor interrupt");
    CHECK_EQ(s_get(EIP(0)), 1 << 9, "its pending bit");
    CHECK_EQ(READ(stopei), TOPEI(9), "stopei tells it");
    CHECK_EQ(READ(mtopei), 0, "the machine-level file has nothing");
    write32(IMSIC_S(0), 5);
    CHECK_EQ(READ(stopei), TOPEI(5), "the lower identity comes first");
    s_put(EITHRESHOLD, 5);
    CHECK_EQ(READ(stopei), 0, "threshold 5 holds 5 back, and 9");
    CHECK_EQ(wait_mip(SEIP, 0), 0, "and the signal goes");
    s_put(EITHRESHOLD, 6);
    CHECK_EQ(READ(stopei), TOPEI(5), "threshold 6 lets 5 pass");
    s_put(EITHRESHOLD, 0);
    s_put(EIDELIVERY, 0);
    CHECK_EQ(wait_mip(SEIP, 0), 0, "no delivery, no signal");
    CHECK_EQ(READ(stopei), TOPEI(5), "stopei does not care");
    s_put(EIDELIVERY, 1);
    CHECK_EQ(CLAIM(stopei), TOPEI(5), "a claim tells what it claims");
    CHECK_EQ(CLAIM(stopei), TOPEI(9), "then the next");
    CHECK_EQ(CLAIM(stopei), 0, "then nothing");
    CHECK_EQ(wait_mip(SEIP, 0), 0, "the signal is gone");
    write32(IMSIC_S(0), 0);
    write32(IMSIC_S(0), 256);
    write32(IMSIC_S(0), 2047);
    write32(IMSIC_S(0) + 8, 5);
    for (int word = 0; word < 4; word++) {
        CHECK_EQ(s_get(EIP(word)), 0, "identities that do not exist set nothing in eip%d", 2 * word);
    }
    CHECK_EQ(read32(IMSIC_S(0)), 0, "the page reads as zero");
    m_put(EIE(3), 1ul << 63);
    write32(IMSIC_M(0), 255);
    CHECK_EQ(wait_mip(SEIP | MEIP, MEIP), MEIP, "identity 255 at machine level");
    CHECK_EQ(CLAIM(mtopei), TOPEI(255), "mtopei claims it");
    s_put(EIP(1), 1);
    s_put(EIE(1), 1);
    CHECK_EQ(READ(stopei), TOPEI(64), "software can make an identity pending");
    clear_files();
}

static volatile u64 taken, taken_top, taken_id;

static void on_machine(u64 code)
{
    taken = code;
    taken_top = READ(mtopi);
    taken_id = CLAIM(mtopei);
}

static void on_supervisor(u64 code)
{
    taken = code;
    taken_top = READ(stopi);
    taken_id = CLAIM(stopei);
}

static u64 wait_taken(u64 a, u64 b)
{
    (void)a, (void)b;
    for (u64 i = 0; i < 1000000 && taken == NO_TRAP; i++) {
        __asm__ volatile("" ::: "memory");
    }
    return taken;
}

static void traps(void)
{
    clear_files();
    taken = NO_TRAP;
    self()->on_irq = on_machine;
    m_put(EIE(0), 1ul << 7);
    csr_write(mideleg, 0);
    csr_write(mie, MEIP);
    csr_set(mstatus, 8);
    write32(IMSIC_M(0), 7);
    CHECK_EQ(wait_taken(0, 0), 11, "a machine-level file traps to M-mode");
    csr_clear(mstatus, 8);
    CHECK_EQ(taken_top >> 16, 11, "mtopi in the handler");
    CHECK_EQ(taken_id, TOPEI(7), "mtopei in the handler");
    CHECK_EQ(READ(mtopi), 0, "mtopi afterwards");

    taken = NO_TRAP;
    self()->on_sirq = on_supervisor;
    s_trap_install();
    csr_write(mideleg, SEIP);
    csr_write(mie, SEIP);
    csr_set(sstatus, 2);
    s_put(EIE(0), 1ul << 30);
    write32(IMSIC_S(0), 30);
    CHECK_EQ(READ(mtopi), 0, "a delegated interrupt is not in mtopi");
    CHECK_EQ(wait_mip(SEIP, SEIP), SEIP, "it waits for S-mode");
    CHECK_EQ(run_mode(MODE_S, wait_taken, 0, 0), 9, "a supervisor-level file traps to S-mode");
    CHECK_EQ(taken_top >> 16, 9, "stopi in the handler");
    CHECK_EQ(taken_id, TOPEI(30), "stopei in the handler");
    csr_clear(sstatus, 2);
    csr_write(mie, 0);
    csr_write(mideleg, 0);
    clear_files();
}

static void priorities(void)
{
    csr_write(mideleg, 0);
    csr_write(mie, 0xa2a);
    CHECK_EQ(READ(mtopi), 0, "nothing is pending");
    csr_set(mip, 2);
    CHECK_EQ(READ(mtopi) >> 16, 1, "SSI alone");
    s_put(EIE(0), 2);
    write32(IMSIC_S(0), 1);
    wait_mip(SEIP, SEIP);
    CHECK_EQ(READ(mtopi) >> 16, 9, "SEI before SSI");
    *MSIP(0) = 1;
    wait_mip(8, 8);
    CHECK_EQ(READ(mtopi) >> 16, 3, "MSI before SEI");
    m_put(EIE(0), 2);
    write32(IMSIC_M(0), 1);
    wait_mip(MEIP, MEIP);
    CHECK_EQ(READ(mtopi) >> 16, 11, "MEI before all");
    csr_write(mideleg, 0x222);
    CHECK_EQ(READ(stopi) >> 16, 9, "stopi has what is delegated");
    csr_write(mie, 0xa2a & ~SEIP);
    CHECK_EQ(READ(stopi) >> 16, 1, "and enabled");
    csr_clear(mip, 2);
    CHECK_EQ(READ(stopi), 0, "or nothing");
    csr_write(mvip, 2);
    CHECK_EQ(csr_read(mip) & 2, 2, "mvip's SSIP is mip's");
    csr_write(mvip, 0);
    CHECK_EQ(csr_read(mip) & 2, 0, "cleared as well");
    *MSIP(0) = 0;
    csr_write(mie, 0);
    csr_write(mideleg, 0);
    clear_files();
}

/* ---- another hart ---- */

static volatile u64 rounds;

static void answer(void)
{
    clear_files();
    m_put(EIE(0), 1ul << 3);
    rounds = 1;
    for (u64 i = 0; i < 100; i++) {
        csr_write(mie, MEIP);
        while (!(csr_read(mip) & MEIP)) {
            __asm__ volatile("wfi");
        }
        CLAIM(mtopei);
        write32(IMSIC_M(0), 4);
    }
    csr_write(mie, 0);
}

static void messages_between_harts(void)
{
    u64 answers = 0;
    clear_files();
    m_put(EIE(0), 1ul << 4);
    rounds = 0;
    start_hart(1, answer);
    while (!rounds) {
        __asm__ volatile("" ::: "memory");
    }
    for (u64 i = 0; i < 100; i++) {
        write32(IMSIC_M(1), 3);
        if (wait_mip(MEIP, MEIP) == MEIP && CLAIM(mtopei) == TOPEI(4)) {
            answers++;
        }
    }
    CHECK_EQ(answers, 100, "every message to the other hart is answered by one");
    wait_hart(1);
}

/* ---- APLIC ---- */

static void wire(bool level)
{
    write8(UART_IER, 0);
    if (level) {
        write8(UART_IER, 2); /* the holding register is empty: raised at once */
    }
}

static void address_files(void)
{
    /* Writable here and there, locked with the same meaning elsewhere (A §4.5.3). */
    write32(APLIC_M + MMSIADDRCFG, IMSIC_M(0) >> 12);
    write32(APLIC_M + MMSIADDRCFG + 4, 1 << 12);
    write32(APLIC_M + MMSIADDRCFG + 8, IMSIC_S(0) >> 12);
    write32(APLIC_M + MMSIADDRCFG + 12, 0);
}

static void use_source(u64 domain, u32 mode, u32 target)
{
    write32(domain + DOMAINCFG, DOMAIN_ENABLED | 4);
    write32(domain + SOURCECFG(UART_IRQ), mode);
    write32(domain + TARGET(UART_IRQ), target);
    write32(domain + SETIENUM, UART_IRQ);
}

static void aplic_at_machine_level(void)
{
    clear_files();
    address_files();
    wire(false);
    m_put(EIE(0), 1ul << 20);
    use_source(APLIC_M, LEVEL1, 20);
    CHECK_EQ(read32(APLIC_M + DOMAINCFG), 0x80000104, "domaincfg");
    CHECK_EQ(read32(APLIC_M + TARGET(UART_IRQ)), 20, "target holds hart and identity");
    CHECK_EQ(read32(APLIC_M + IN_CLRIP(0)) >> UART_IRQ & 1, 0, "the input is low");
    wire(true);
    CHECK_EQ(wait_mip(MEIP, MEIP), MEIP, "a wire becomes a message");
    CHECK_EQ(read32(APLIC_M + IN_CLRIP(0)) >> UART_IRQ & 1, 1, "the input is high");
    CHECK_EQ(read32(APLIC_M + SETIP(0)), 0, "what was sent is not pending");
    CHECK_EQ(CLAIM(mtopei), TOPEI(20), "with the target's identity");
    CHECK_EQ(CLAIM(mtopei), 0, "once");
    write32(APLIC_M + SETIPNUM_LE, UART_IRQ);
    CHECK_EQ(wait_mip(MEIP, MEIP), MEIP, "again while the level is high");
    CHECK_EQ(CLAIM(mtopei), TOPEI(20), "the same identity");
    wire(false);
    write32(APLIC_M + SETIPNUM_LE, UART_IRQ);
    CHECK_EQ(CLAIM(mtopei), 0, "but not when it is low");
    write32(APLIC_M + CLRIENUM, UART_IRQ);
    wire(true);
    CHECK_EQ(read32(APLIC_M + SETIP(0)) >> UART_IRQ & 1, 1, "not enabled: pending");
    wire(false);
    CHECK_EQ(read32(APLIC_M + SETIP(0)) >> UART_IRQ & 1, 0, "a level takes it back");
    use_source(APLIC_M, EDGE1, 20);
    write32(APLIC_M + CLRIENUM, UART_IRQ);
    wire(true);
    wire(false);
    CHECK_EQ(read32(APLIC_M + SETIP(0)) >> UART_IRQ & 1, 1, "an edge stays");
    write32(APLIC_M + SETIENUM, UART_IRQ);
    CHECK_EQ(CLAIM(mtopei), TOPEI(20), "until it is sent");
    m_put(EIE(0), 1ul << 21);
    write32(APLIC_M + GENMSI, 21);
    CHECK_EQ(wait_mip(MEIP, MEIP), MEIP, "an extempore message");
    CHECK_EQ(CLAIM(mtopei), TOPEI(21), "has its identity");
    write32(APLIC_M + SOURCECFG(UART_IRQ), 0);
    clear_files();
}

static void aplic_at_supervisor_level(void)
{
    clear_files();
    wire(false);
    write32(APLIC_S + SOURCECFG(UART_IRQ), LEVEL1);
    CHECK_EQ(read32(APLIC_S + SOURCECFG(UART_IRQ)), 0, "not delegated: not there");
    write32(APLIC_M + SOURCECFG(UART_IRQ), DELEGATE);
    CHECK_EQ(read32(APLIC_M + SOURCECFG(UART_IRQ)), DELEGATE, "delegated");
    s_put(EIE(1), 1ul << 6);
    use_source(APLIC_S, LEVEL1, 70);
    wire(true);
    CHECK_EQ(wait_mip(SEIP | MEIP, SEIP), SEIP, "to the supervisor-level file");
    CHECK_EQ(CLAIM(stopei), TOPEI(70), "with its identity");
    CHECK_EQ(read32(APLIC_M + IN_CLRIP(0)) >> UART_IRQ & 1, 0, "the root sees no input");
    wire(false);
    write32(APLIC_M + SOURCECFG(UART_IRQ), 0);
    CHECK_EQ(read32(APLIC_S + SOURCECFG(UART_IRQ)), 0, "taken back");
    clear_files();
}

void guest_main(void)
{
    registers();
    files();
    traps();
    priorities();
    messages_between_harts();
    aplic_at_machine_level();
    aplic_at_supervisor_level();
}
