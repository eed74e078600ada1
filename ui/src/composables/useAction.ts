/** Things that one does with a click: asked first where they end work, told how they went. */
import { ElMessage, ElMessageBox } from "element-plus";
import { ref } from "vue";
import { useI18n } from "vue-i18n";

import { asProblem } from "@/api/client";
import { useProblemText } from "./useProblemText";

export function useAction() {
  const { t } = useI18n();
  const { titleOf, detailOf } = useProblemText();
  const busy = ref(false);

  /** Do it; answers whether it was done. done: what to say then. */
  async function run(act: () => Promise<unknown>, done = ""): Promise<boolean> {
    busy.value = true;
    try {
      await act();
      if (done !== "") ElMessage({ message: done, type: "success", grouping: true });
      return true;
    } catch (error) {
      const problem = asProblem(error);
      ElMessage({
        message: [titleOf(problem), detailOf(problem)].filter(Boolean).join(": "),
        type: "error",
        duration: 6_000,
        showClose: true,
      });
      return false;
    } finally {
      busy.value = false;
    }
  }

  /** Ask before; answers whether the person agrees. */
  async function confirm(title: string, text: string, yes: string): Promise<boolean> {
    try {
      await ElMessageBox.confirm(text, title, {
        confirmButtonText: yes,
        cancelButtonText: t("common.back"),
        confirmButtonClass: "el-button--danger",
        autofocus: false,
      });
      return true;
    } catch {
      return false;
    }
  }

  return { busy, run, confirm };
}
