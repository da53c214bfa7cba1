/*
 * PLIC, with the UART's transmitter-empty interrupt (source 10) as a level source: enables,
 * priorities, thresholds, claim and complete, M and S contexts.  RISC-V PLIC specification 1.0.0;
 * context 2h is hart h's M-mode, 2h+1 its S-mode, as on the `virt` board.
 */
#include "rt.h"

const char guest_name[] = "plic";

enum { UART_IRQ = 10, RTC_IRQ = 11 };

#define PRIORITY(src)  (PLIC_BASE + 4ul * (src))
#define PENDING(src)   (PLIC_BASE + 0x1000 + 4ul * ((src) / 32))
#define ENABLE(ctx, w) (PLIC_BASE + 0x2000 + 0x80ul * (ctx) + 4ul * (w))
#define THRESHOLD(ctx) (PLIC_BASE + 0x200000 + 0x1000ul * (ctx))
#define CLAIM(ctx)     (PLIC_BASE + 0x200004 + 0x1000ul * (ctx))
#define UART_IER       (UART_BASE + 1)
#define UART_IIR       (UART_BASE + 2)

static u64 wait_mip(u64 mask, u64 want)
{
    u64 v = 0;
    for (u64 end = *MTIME + TIMEBASE * 2; *MTIME < end;) {
        v = csr_read(mip) & mask;
        if (v == want) {
            break;
        }
    }
    return v;
}

static bool wait_pending(unsigned src, bool want)
{
    for (u64 end = *MTIME + TIMEBASE * 2; *MTIME < end;) {
        if ((read32(PENDING(src)) >> (src % 32) & 1) == want) {
            return true;
        }
    }
    return false;
}

static void reset_plic(void)
{
    write8(UART_IER, 0);
    for (int ctx = 0; ctx < 2; ctx++) {
        u32 id;
        while ((id = read32(CLAIM(ctx))) != 0) {
            write32(CLAIM(ctx), id);
        }
        write32(ENABLE(ctx, 0), 0);
        write32(THRESHOLD(ctx), 0);
    }
    write32(PRIORITY(UART_IRQ), 0);
    write32(PRIORITY(RTC_IRQ), 0);
}

/* Raise the line: with the holding register empty, enabling ETBEI raises it at once. */
static void uart_raise(void)
{
    write8(UART_IER, 0);
    write8(UART_IER, 2);
}

static void uart_lower(void)
{
    write8(UART_IER, 0);
}

static void registers(void)
{
    reset_plic();
    write32(PRIORITY(UART_IRQ), 7);
    CHECK_EQ(read32(PRIORITY(UART_IRQ)), 7, "priority holds 7");
    write32(PRIORITY(UART_IRQ), 0);
    CHECK_EQ(read32(PRIORITY(UART_IRQ)), 0, "priority holds 0");
    write32(PRIORITY(0), 7);
    CHECK_EQ(read32(PRIORITY(0)), 0, "source 0 does not exist");
    for (int ctx = 0; ctx < 2; ctx++) {
        write32(THRESHOLD(ctx), 5);
        CHECK_EQ(read32(THRESHOLD(ctx)), 5, "threshold of context %d", ctx);
        write32(THRESHOLD(ctx), 0);
        write32(ENABLE(ctx, 0), ~0u);
        CHECK_EQ(read32(ENABLE(ctx, 0)) & 1u << UART_IRQ, 1u << UART_IRQ, "enable of context %d",
                 ctx);
        CHECK_EQ(read32(ENABLE(ctx, 0)) & 1, 0, "enable bit of source 0, context %d", ctx);
        write32(ENABLE(ctx, 0), 0);
        CHECK_EQ(read32(CLAIM(ctx)), 0, "claim with nothing pending, context %d", ctx);
    }
    CHECK_EQ(read32(PENDING(0)), 0, "nothing pending");
    write32(PENDING(0), ~0u);
    CHECK_EQ(read32(PENDING(0)), 0, "pending bits are read-only");
}

static void gateway(int ctx)
{
    u64 bit = ctx == 0 ? BIT(IRQ_MEI) : BIT(IRQ_SEI);
    reset_plic();
    write32(PRIORITY(UART_IRQ), 1);
    write32(ENABLE(ctx, 0), 1u << UART_IRQ);
    uart_raise();
    CHECK(wait_pending(UART_IRQ, true), "UART pending, context %d", ctx);
    CHECK_EQ(wait_mip(bit, bit), bit, "external interrupt, context %d", ctx);
    CHECK_EQ(csr_read(mip) & (BIT(IRQ_MEI) | BIT(IRQ_SEI)), bit, "only that context, %d", ctx);
    CHECK_EQ(read32(CLAIM(ctx)), UART_IRQ, "claim, context %d", ctx);
    CHECK_EQ(wait_mip(bit, 0), 0, "claim lowers the line, context %d", ctx);
    CHECK(wait_pending(UART_IRQ, false), "claim clears pending, context %d", ctx);
    CHECK_EQ(read32(CLAIM(ctx)), 0, "second claim, context %d", ctx);
    /* Until completion the gateway forwards nothing, not even a new edge. */
    uart_lower();
    uart_raise();
    CHECK_EQ(read32(PENDING(UART_IRQ)) >> UART_IRQ & 1, 0, "edge while claimed, context %d", ctx);
    CHECK_EQ(csr_read(mip) & bit, 0, "interrupt while claimed, context %d", ctx);
    /* Still asserted: completion lets it through again. */
    write32(CLAIM(ctx), UART_IRQ);
    CHECK_EQ(wait_mip(bit, bit), bit, "level still high after completion, context %d", ctx);
    CHECK_EQ(read32(CLAIM(ctx)), UART_IRQ, "claim again, context %d", ctx);
    uart_lower();
    write32(CLAIM(ctx), UART_IRQ);
    CHECK_EQ(wait_mip(bit, 0), 0, "level low after completion, context %d", ctx);
    CHECK_EQ(read32(CLAIM(ctx)), 0, "nothing left, context %d", ctx);
}

static void masking(int ctx)
{
    u64 bit = ctx == 0 ? BIT(IRQ_MEI) : BIT(IRQ_SEI);
    /* priority, threshold, enabled -> interrupt */
    static const struct {
        u32 priority, threshold, enable;
        bool want;
    } rows[] = {
        {0, 0, 1, false}, {1, 0, 1, true},  {1, 1, 1, false}, {2, 1, 1, true},  {7, 7, 1, false},
        {7, 6, 1, true},  {1, 0, 0, false}, {7, 0, 0, false}, {3, 5, 1, false}, {5, 3, 1, true},
    };
    for (size_t i = 0; i < ARRAY_SIZE(rows); i++) {
        reset_plic();
        uart_raise();
        write32(PRIORITY(UART_IRQ), rows[i].priority);
        write32(THRESHOLD(ctx), rows[i].threshold);
        write32(ENABLE(ctx, 0), rows[i].enable << UART_IRQ);
        CHECK(wait_pending(UART_IRQ, true), "pending whatever the mask, row %lu context %d", i,
              ctx);
        CHECK_EQ(wait_mip(bit, rows[i].want ? bit : 0), rows[i].want ? bit : 0,
                 "priority %u threshold %u enable %u, context %d", rows[i].priority,
                 rows[i].threshold, rows[i].enable, ctx);
        /* Claims ignore the threshold, but not enables and priority 0. */
        u32 id = read32(CLAIM(ctx));
        CHECK_EQ(id, rows[i].enable && rows[i].priority ? UART_IRQ : 0,
                 "claim at priority %u threshold %u enable %u, context %d", rows[i].priority,
                 rows[i].threshold, rows[i].enable, ctx);
        uart_lower();
        write32(CLAIM(ctx), id);
    }
    reset_plic();
}

/* Two sources: the goldfish RTC's alarm is the second. */
static void two_sources(void)
{
    static const struct {
        u32 uart, rtc, first;
    } rows[] = {{1, 2, RTC_IRQ}, {2, 1, UART_IRQ}, {3, 3, UART_IRQ /* lowest id wins */}};
    for (size_t i = 0; i < ARRAY_SIZE(rows); i++) {
        reset_plic();
        uart_raise();
        write32(RTC_BASE + 0x10, 1); /* IRQ_ENABLED */
        write32(RTC_BASE + 0x0c, 0); /* ALARM_HIGH */
        write32(RTC_BASE + 0x08, 0); /* ALARM_LOW: in the past, so at once */
        write32(PRIORITY(UART_IRQ), rows[i].uart);
        write32(PRIORITY(RTC_IRQ), rows[i].rtc);
        write32(ENABLE(0, 0), 1u << UART_IRQ | 1u << RTC_IRQ);
        CHECK(wait_pending(UART_IRQ, true), "UART pending, row %lu", i);
        CHECK(wait_pending(RTC_IRQ, true), "RTC pending, row %lu", i);
        u32 a = read32(CLAIM(0)), b = read32(CLAIM(0)), c = read32(CLAIM(0));
        CHECK_EQ(a, rows[i].first, "first claim, row %lu", i);
        CHECK_EQ(b, rows[i].first == UART_IRQ ? RTC_IRQ : UART_IRQ, "second claim, row %lu", i);
        CHECK_EQ(c, 0, "third claim, row %lu", i);
        uart_lower();
        write32(RTC_BASE + 0x1c, 1); /* CLEAR_INTERRUPT */
        write32(RTC_BASE + 0x10, 0);
        write32(CLAIM(0), a);
        write32(CLAIM(0), b);
        CHECK_EQ(wait_mip(BIT(IRQ_MEI), 0), 0, "both done, row %lu", i);
    }
    reset_plic();
}

static u64 handled;

static void claim_it(u64 code)
{
    handled = code << 32 | read32(CLAIM(code == IRQ_MEI ? 0 : 1));
    uart_lower();
    write32(CLAIM(code == IRQ_MEI ? 0 : 1), (u32)handled);
}

static u64 s_wait(u64 a, u64 b)
{
    (void)a, (void)b;
    csr_set(sstatus, MSTATUS_SIE);
    for (u64 end = *MTIME + TIMEBASE * 2; !*(volatile u64 *)&handled && *MTIME < end;) {
    }
    csr_clear(sstatus, MSTATUS_SIE);
    return 0;
}

/* Taken as real interrupts, in M-mode and delegated to S-mode. */
static void delivered(void)
{
    reset_plic();
    self()->on_irq = claim_it;
    self()->on_sirq = claim_it;
    s_trap_install();
    write32(PRIORITY(UART_IRQ), 1);
    write32(ENABLE(0, 0), 1u << UART_IRQ);
    csr_write(mie, BIT(IRQ_MEI));
    handled = 0;
    csr_set(mstatus, MSTATUS_MIE);
    uart_raise();
    for (u64 end = *MTIME + TIMEBASE * 2; !*(volatile u64 *)&handled && *MTIME < end;) {
    }
    csr_clear(mstatus, MSTATUS_MIE);
    CHECK_EQ(handled, (u64)IRQ_MEI << 32 | UART_IRQ, "MEI taken");
    reset_plic();
    write32(PRIORITY(UART_IRQ), 1);
    write32(ENABLE(1, 0), 1u << UART_IRQ);
    csr_write(mideleg, BIT(IRQ_SEI));
    csr_write(mie, BIT(IRQ_SEI));
    handled = 0;
    uart_raise();
    run_mode(MODE_S, s_wait, 0, 0);
    CHECK_EQ(handled, (u64)IRQ_SEI << 32 | UART_IRQ, "SEI taken in S-mode");
    CHECK_EQ(self()->t.by, MODE_S, "SEI handled by S-mode");
    /* mip.SEIP reads as the software bit OR the PLIC's; clearing the bit leaves the PLIC's. */
    reset_plic();
    csr_write(mie, 0);
    write32(PRIORITY(UART_IRQ), 1);
    write32(ENABLE(1, 0), 1u << UART_IRQ);
    uart_raise();
    wait_mip(BIT(IRQ_SEI), BIT(IRQ_SEI));
    csr_clear(mip, BIT(IRQ_SEI));
    CHECK_EQ(csr_read(mip) & BIT(IRQ_SEI), BIT(IRQ_SEI), "the PLIC's SEIP stays");
    reset_plic();
    CHECK_EQ(wait_mip(BIT(IRQ_SEI), 0), 0, "SEIP gone with the line");
    csr_set(mip, BIT(IRQ_SEI));
    CHECK_EQ(csr_read(mip) & BIT(IRQ_SEI), BIT(IRQ_SEI), "software SEIP");
    csr_clear(mip, BIT(IRQ_SEI));
    CHECK_EQ(csr_read(mip) & BIT(IRQ_SEI), 0, "software SEIP cleared");
}

void guest_main(void)
{
    registers();
    gateway(0);
    gateway(1);
    masking(0);
    masking(1);
    two_sources();
    delivered();
}
