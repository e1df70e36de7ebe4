"""The page's words, in the languages that it speaks."""

from collections.abc import Mapping

LANGUAGES = ("en", "zh-TW")

_TEXTS = {
    "title": ("Deploy a model to Ollama", "將模型部署到 Ollama"),
    "intro": (
        "A zip with a base model, a LoRA adapter, or both. Drop it anywhere on this page.",
        "zip 檔可含基礎模型、LoRA 轉接器，或兩者皆有。可拖放到本頁任何位置。",
    ),
    "zip": ("The zip: choose it, or drop it here", "zip 檔：選擇檔案，或拖放到此"),
    "name": ("Its name on Ollama", "在 Ollama 上的名稱"),
    "name_rule": (
        "[namespace/]name[:tag]: letters, digits, dots, hyphens and underscores; a letter, digit or"
        " underscore first",
        "[命名空間/]名稱[:標籤]：可用英數字、點、連字號與底線，開頭須為英數字或底線",
    ),
    "server": ("Ollama server", "Ollama 伺服器"),
    "all_servers": ("all", "全部"),
    "options": ("Options", "選項"),
    "from": ("Base model, for an adapter alone", "基礎模型（僅上傳轉接器時）"),
    "system": ("System text", "系統提示"),
    "template": ("Template (Go)", "範本（Go）"),
    "parameters": ("Parameters (a JSON object)", "參數（JSON 物件）"),
    "quantize": ("Quantise to", "量化為"),
    "verify": ("Have Ollama load it and answer once", "讓 Ollama 載入並回應一次"),
    "unchanged": ("as it is", "不變"),
    "deploy": ("Deploy", "部署"),
    "cancel": ("Cancel", "取消"),
    "one_at_a_time": (
        "A task is running: wait for its end, or cancel it.",
        "已有工作執行中：請等待完成或先取消。",
    ),
    "cancelled": ("Cancelled. Nothing was kept.", "已取消，未保留任何資料。"),
    "cancelled_kept": (
        "Cancelled. The model is kept here and can be created later.",
        "已取消。模型已保留，可稍後再建立。",
    ),
    "phase_upload": ("Upload", "上傳"),
    "phase_extract": ("Extract", "解壓縮"),
    "phase_push": ("Push", "傳送"),
    "phase_create": ("Create", "建立"),
    "left": ("left", "剩餘"),
    "lines": ("What the service said", "服務訊息"),
    "done": ("is on Ollama. Chat with it:", "已在 Ollama 上。開始對話："),
    "copy_line": ("Copy", "複製"),
    "copied": ("Copied", "已複製"),
    "try": ("Try", "試用"),
    "prompt": ("Prompt", "提示詞"),
    "ask": ("Send", "送出"),
    "stop": ("Stop", "停止"),
    "lost": ("The connection was lost.", "連線中斷。"),
    "models": ("Models", "模型"),
    "model": ("Model", "模型"),
    "kind": ("Kind", "種類"),
    "architecture": ("Architecture", "架構"),
    "parameter_count": ("Parameters", "參數量"),
    "quantization": ("Quantisation", "量化"),
    "size": ("Size", "大小"),
    "date": ("Date", "日期"),
    "on_ollama": ("On Ollama as", "在 Ollama 上"),
    "create": ("Create", "建立"),
    "modelfile": ("Modelfile", "Modelfile"),
    "delete": ("Delete", "刪除"),
    "download": ("Download", "下載"),
    "download_with_key": (
        "A browser's download can't carry the API key. In a shell:",
        "瀏覽器下載無法附上 API 金鑰，請在命令列執行：",
    ),
    "ask_delete": ("Type the model's name to delete it", "輸入模型名稱以刪除"),
    "tasks": ("Recent tasks", "最近的工作"),
    "none": ("None yet.", "尚無。"),
    "state_running": ("running", "執行中"),
    "state_succeeded": ("succeeded", "成功"),
    "state_failed": ("failed", "失敗"),
    "state_stopped": ("stopped", "已中止"),
    "sign_in": ("Enter the API key", "輸入 API 金鑰"),
    "ask_key": ("This service wants an API key", "此服務需要 API 金鑰"),
    "holds": ("It holds", "內容"),
    "not_zip": ("This isn't a zip, or not a whole one.", "這不是完整的 zip 檔。"),
    "encrypted": (
        "It is encrypted. Zip it without a password.",
        "此檔已加密，請不設密碼重新壓縮。",
    ),
    "no_model": (
        "It holds no .gguf and no .safetensors file.",
        "其中沒有 .gguf 或 .safetensors 檔。",
    ),
    "back": ("Back", "返回"),
    "failed": ("It failed", "失敗"),
}


def texts(language: str | None) -> Mapping[str, str]:
    """Each text by its key, in one of LANGUAGES; in English for any other."""
    column = LANGUAGES.index(language) if language in LANGUAGES else 0
    return {key: words[column] for key, words in _TEXTS.items()}
